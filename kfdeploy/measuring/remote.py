"""Benchmarking on a device over ssh: artifacts and their kits go there, bench.py measures, the numbers come back.

The system's own ssh does the talking, with its configuration, keys and known hosts, and may never ask for anything.
"""

import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from kfdeploy.data.folders import images_in
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.errors import DataError, PoolError, RemoteError, UnsupportedError
from kfdeploy.manifest import stamp
from kfdeploy.measuring.result import fault, upgraded
from kfdeploy.measuring.rounds import alternating
from kfdeploy.measuring.ssh import ADDRESS, MARK, Remote, parse_address
from kfdeploy.names import check_inside, tree
from kfdeploy.reading import ReadingError, json_of
from kfdeploy.targets import TARGETS
from kfdeploy.targets.base import Scenario
from kfdeploy.targets.kits import write_kit
from kfdeploy.tasks.spec import CLASS

Report = Callable[[str], None]
OLDEST = (3, 9)  # the oldest Python that the kits' programs run on
_MODULES = {"pillow": "PIL", "cuda-bindings": "cuda.bindings"}  # packages whose modules have other names
_BUILT = ("model.engine", "engine.json", "timing.cache")  # what build.py makes, for one device alone
_HELLO = """
printf '%s\\n' "$1"
case "$2" in "~/"*) py="$HOME/${2#"~/"}" ;; *) py="$2" ;; esac
py=$(command -v "$py") || exit 81
case "$py" in /*) ;; *) py="$PWD/$py" ;; esac
printf '%s\\n' "$py"
said=$("$py" --version 2>&1)
printf '%s\\n' "$said"
case "$said" in "Python "[0-9]*) ;; *) exit 82 ;; esac
"$py" -c "import sys; sys.exit(sys.version_info < ($4))" || exit 83
if [ -n "$3" ]; then cd -- "$3" 2>/dev/null || exit 84; root="$PWD"; else root="${TMPDIR:-/tmp}"; fi
mktemp -d "$root/kfdeploy-XXXXXX" || exit 85
"""
_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "-")
        print(json.dumps([name, absent, str(error)]))
"""


def benchmark_on(
    url: str,
    artifacts: Sequence[Artifact | str | Path],
    *,
    scenarios: Sequence[str] = get_args(Scenario),
    threads: Sequence[int] = (1,),
    batch: int = 32,
    quick: bool = False,
    python: str = "python3",
    data: str | Path | None = None,
    keep: bool = False,
    timeout: float = 3600.0,
    ssh_options: Sequence[str] = (),
    host: bool = False,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Measure artifacts on the device at `url` with their kit's `bench.py`, and return one result with all rows.

    `ssh://[user@]host[:port][/folder]`: everything happens in a new folder under `folder` (`/~/x` is in the home
    folder; default: the device's temporary folder), which is removed at the end, after a failure too, unless `keep`.
    An artifact without a kit gets its target's there. `python` is the device's Python. With `data`, a folder with
    `test/<class>/` or `<class>/`, its images go there too and the accuracy of the field `class` is measured; without,
    it is None. `timeout` is
    in seconds, for each artifact in each number of threads. `ssh_options` are words for ssh, such as `-F file`.

    The result has `"device"` (with `host` the URL without user and folder, else a name that tells it from others),
    `"when"` (UTC) and no comparisons.

    Raises:
        UnsupportedError: the URL, a scenario or a target is not one, or an artifact's fixed batch fits no scenario.
        MissingDependencyError: there is no ssh here.
        PoolError: an artifact is not whole.
        DataError: `data` has no images of these classes.
        RemoteError: the device cannot be reached, lacks something, or failed; `result` has the rows finished before.
    """
    # Long because it is one visit: whatever step fails, the folder there goes away and the rows so far stay.
    device = Remote(parse_address(url), tuple(ssh_options))
    opened = [a if isinstance(a, Artifact) else Artifact.open(a) for a in artifacts]
    _check(opened, scenarios, batch)
    pictures = _pictures(Path(data), opened) if data is not None else []
    results: list[dict[str, Any]] = []
    where = device.address
    with tempfile.TemporaryDirectory() as place:
        folders = [_complete(artifact, Path(place) / str(i)) for i, artifact in enumerate(opened)]
        python, root = _greet(device, python)
        try:
            _check_imports(device, python, opened, folders)
            for i, (artifact, files) in enumerate(zip(opened, folders, strict=True)):
                report(f"copying {artifact.path.name} to {where.label}")
                device.copy(files, f"{root}/{i}", f"copying '{artifact.path}'", timeout)
            if pictures:
                report(f"copying {len(pictures)} images to {where.label}")
                device.copy(pictures, f"{root}/data", f"copying '{data}'", timeout)
            for i, (artifact, files) in enumerate(zip(opened, folders, strict=True)):
                if any(name == "build.py" for _, name in files):
                    report(f"building {artifact.path.name} on {where.label}")
                    words = [python, f"{root}/{i}", "" if keep else root, "build.py"]
                    device.launch(words, f"building '{artifact.path}'", timeout, report)
            asked = ["--scenario", *scenarios, "--batch", str(batch), *(["--quick"] if quick else [])]
            counts = sorted(set(threads))
            for n, i in alternating(range(len(opened)), len(counts)):  # no artifact always has the cool device
                artifact, count = opened[i], counts[n]
                report(f"measuring {artifact.path.name} on {where.label}, threads {count}")
                words = [*asked, "--threads", str(count), "--json", "../result.json"]
                if pictures and not any(row["sha256"] == artifact.sha256 for r in results for row in r["rows"]):
                    words += ["--data", "../data"]  # once: an accuracy does not depend on threads
                words = [python, f"{root}/{i}", "" if keep else root, "bench.py", *words]
                text = device.launch(words, f"measuring '{artifact.path}'", timeout, report)
                results.append(_read(text, artifact, count, scenarios))
        except RemoteError as error:
            error.result = _merged(results, where.label if host else where.alias) if results else None
            raise
        finally:
            if keep:
                report(f"kept {root} on {where.label}")
            else:
                _remove(device, root, report)
    return _merged(results, where.label if host else where.alias)


def _remove(device: Remote, root: str, report: Report) -> None:
    try:
        device.run('rm -rf -- "$1"', [root], "removing the folder", timeout=60)
    except RemoteError:
        report(f"{root} on {device.address.label} could not be removed from here")


def _check(opened: Sequence[Artifact], scenarios: Sequence[str], batch: int) -> None:
    known = get_args(Scenario)
    if not opened:
        raise PoolError("no artifact was named", hint="kfdeploy export --target onnx, then benchmark")
    for scenario in scenarios:
        if scenario not in known:
            raise UnsupportedError(f"there is no scenario '{scenario}'", allowed=known)
    sizes = [1 if scenario == "single-stream" else batch for scenario in scenarios]
    for artifact in opened:
        artifact.check()
        if artifact.batch not in (0, *sizes):
            raise UnsupportedError(
                f"'{artifact.path}' has the fixed batch {artifact.batch}, and {' and '.join(scenarios)} would need "
                f"{' and '.join(map(str, sizes))}",
                hint="export it with a dynamic batch, or choose --scenario and --batch to fit",
            )


def _complete(artifact: Artifact, beside: Path) -> list[tuple[Path, str]]:
    """Return an artifact's files with their names on the device; a kit that it lacks is written `beside`."""
    own = [path for path in tree(artifact.path) if path.name not in _BUILT]
    files = {path.relative_to(artifact.path).as_posix(): path for path in own if "__pycache__" not in path.parts}
    if "bench.py" not in files:
        if artifact.target not in TARGETS:
            raise UnsupportedError(f"'{artifact.path}' is of target '{artifact.target}'", allowed=TARGETS)
        kit = import_module(TARGETS[artifact.target]).KIT  # not targets.load: the runtime may be on the device alone
        files = {name: beside / name for name in write_kit(beside, kit)} | files
    return [(path, name) for name, path in files.items()]


def _pictures(folder: Path, opened: Sequence[Artifact]) -> list[tuple[Path, str]]:
    """Return the images of the artifacts' classes with their names on the device: folders tell the field `class`."""
    root = folder / "test" if (folder / "test").is_dir() else folder
    tasks = [task for artifact in opened for task in artifact.tasks]
    names = list(dict.fromkeys(name for task in tasks if task.field == CLASS for name in task.classes))
    if not names:
        raise DataError(
            f"on a device accuracy is measured on folders of classes, and these models' fields are: "
            f"{', '.join(dict.fromkeys(task.field for task in tasks))}",
            hint="leave --data out there, and measure accuracy here: kfdeploy benchmark",
        )
    check_inside(opened[0].path, names)  # a class is a folder here, and its name came with an artifact
    found = [(path, path.relative_to(root).as_posix()) for name in names for path in images_in(root / name)[0]]
    if not found:
        raise DataError(
            f"'{root}' has no folder of images for any of: {', '.join(names)}", hint="choose another --data"
        )
    return found


def _greet(device: Remote, python: str) -> tuple[str, str]:
    """Return the path of the device's Python, having looked at its version, and of a new folder there."""
    where, oldest = device.address, ".".join(map(str, OLDEST))
    words = [MARK, python, where.folder, ", ".join(map(str, OLDEST))]
    code, lines = device.run(_HELLO, words, "connecting", accept=(81, 82, 83, 84, 85), timeout=60)
    newer = f"install Python {oldest} or newer there, or name one: --python /path/to/python3"
    if code == 81:
        raise RemoteError(f"there is no '{python}' on {where.label}", hint=newer)
    said = lines[1] if len(lines) > 1 else "nothing"
    if code == 82:
        raise RemoteError(f"'{python}' on {where.label} is no Python that runs: it says {said[:80]!r}", hint=newer)
    if code == 83:
        raise RemoteError(f"'{python}' on {where.label} is {said}, and the kits need {oldest} or newer", hint=newer)
    if code == 84:
        raise RemoteError(
            f"there is no folder '{where.folder}' on {where.label}",
            hint=f"{where.typed} mkdir -p {shlex.quote(where.folder)}",
        )
    if code == 85 or not re.search(r"/kfdeploy-\w{6}$", lines[-1]):
        place = where.folder or "the temporary folder"
        raise RemoteError(f"{place} on {where.label} cannot be written to", hint=f"name another folder: {ADDRESS}")
    return lines[0], lines[-1]


def _check_imports(
    device: Remote, python: str, opened: Sequence[Artifact], folders: Sequence[Sequence[tuple[Path, str]]]
) -> None:
    """Refuse a device that lacks a requirement of a kit."""
    needs = [
        path.read_text(encoding="utf-8").split("\n")
        for files in folders
        for path, n in files
        if n == "requirements.txt"
    ]
    lines = list(dict.fromkeys(line.strip() for text in needs for line in text if line.strip() and line[0] != "#"))
    packages = {line: re.split(r"[^\w.-]", line)[0] for line in lines}
    modules = {_MODULES.get(name.lower(), name): line for line, name in packages.items()}
    script = f'printf "%s\\n" "{MARK}"; exec "$@"'
    _, found = device.run(script, [python, "-c", _IMPORT, *modules], "importing the runtime", timeout=300)
    failed: list[tuple[str, bool, str]] = []
    for line in found:
        with suppress(ValueError, TypeError):  # a package may print something of its own
            name, gone, text = json_of(line)
            failed.append((name, gone, str(text)))
    where, pip = device.address.label, f"type there: {shlex.quote(python)} -m pip install"
    if absent := [modules[name] for name, gone, _ in failed if gone]:
        names = ", ".join(packages[line] for line in absent)
        raise RemoteError(f"{python} on {where} has no {names}", hint=f"{pip} {shlex.join(absent)}")
    for name, _, text in failed:
        line = modules[name]
        raise RemoteError(
            f"{packages[line]} on {where} does not import: {' '.join(text.split())[:200]}",
            hint=f"{pip} --force-reinstall {shlex.quote(line)}",
        )


def _read(text: str, artifact: Artifact, threads: int, scenarios: Sequence[str]) -> dict[str, Any]:
    """Return what bench.py wrote, having checked that it is about this very artifact in this setting."""
    hint = "its kit may be of another version: kfdeploy export --kit --force, then again"
    try:
        result = json_of(text, constants=True)
    except ReadingError:
        raise RemoteError(f"what was brought back of '{artifact.path}' is not JSON: {text[:60]!r}", hint=hint) from None
    if why := fault(result):
        raise RemoteError(f"what was brought back of '{artifact.path}' is no benchmark: {why}", hint=hint)
    if not result["rows"]:
        raise RemoteError(f"nothing of '{artifact.path}' was measured on the device", hint=hint)
    for row in result["rows"]:
        if row["sha256"] != artifact.sha256:
            raise RemoteError(
                f"the device measured a file with sha256 {row['sha256'][:12]}…, and that of '{artifact.path}' is "
                f"{artifact.sha256[:12]}…",
                hint="run it again; if it stays so, the device changes what it is given",
            )
        if row["threads"] != threads or row["scenario"] not in scenarios:
            seen = f"{row['scenario']}, threads {row['threads']}"
            raise RemoteError(f"the device measured '{artifact.path}' in another setting: {seen}", hint=hint)
    return upgraded(result)


def _merged(results: Sequence[dict[str, Any]], label: str) -> dict[str, Any]:
    """Return one result with all rows; those of one file have one accuracy."""
    rows = [row for result in results for row in result["rows"]]
    scored = {row["sha256"]: row for row in rows if row["accuracy"] is not None}
    names = ("accuracy", "images", "fields")
    found = [(row, scored.get(row["sha256"], row)) for row in rows]
    rows = [row | {name: whole[name] for name in names if name in whole} for row, whole in found]
    return {
        **stamp("benchmark"),
        "quick": results[0]["quick"],
        "protocol": results[0]["protocol"],
        "machine": results[0]["machine"],
        "device": label,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "comparisons": [],
    }
