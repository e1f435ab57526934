"""The part of `attack.py` that writes: races, kills and power cuts, in processes forked from one that has it all."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "records" / "0.1.0"
TOLD = (
    "another kfdeploy",
    "another process",
    "is already there",
    "is not in",
    "was changed by another",
    "has nothing to go back to",
)
State = dict[str, bytes] | None


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    error: str
    points: int


def load() -> None:
    """Load what the verbs load; what is run must not be, because it starts threads, which a fork would lose."""
    import onnxruntime  # noqa: F401

    import kfdeploy.cli
    import kfdeploy.deploy.assemble
    import kfdeploy.deploy.calibrate
    import kfdeploy.deploy.export
    import kfdeploy.deploy.update.apply
    import kfdeploy.deploy.update.diff
    import kfdeploy.deploy.update.keys
    import kfdeploy.graph.compose
    import kfdeploy.graph.reference
    import kfdeploy.pool.convert
    import kfdeploy.pool.edit
    import kfdeploy.targets.onnx  # noqa: F401


def start(words: Sequence[str], cwd: Path, logs: Path, point: int | None, die: Callable[[], None] | None = None) -> int:
    """Run a command line in a copy of this process; return its number. It waits for `logs/go`."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        own = logs / str(os.getpid())
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{own}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        os.chdir(cwd)
        os.environ["KFDEPLOY_STATE"], os.environ["HOME"] = str(cwd / "state"), str(cwd / "home")
        from kfdeploy.cli import main

        sys.argv = ["kfdeploy", *words]
        while not (logs / "go").exists():
            time.sleep(0.001)
        count = [0]
        if point is not None:
            from dying import watched

            count = watched(point, *([] if die is None else [die]))
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if point is not None:
            Path(f"{own}.points").write_text(str(count[0]), encoding="ascii")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def together(lines: Sequence[Sequence[str]], cwd: Path, point: int | None = None, die: Any = None) -> list[Ended]:
    """Run command lines at once, and return how each ended."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        pids = [start(words, cwd, logs, point, die) for words in lines]
        (logs / "go").touch()
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        texts = [(logs / f"{pid}.err").read_text(encoding="utf-8", errors="replace") for pid in pids]
        points = [int(path.read_text()) if (path := logs / f"{pid}.points").is_file() else 0 for pid in pids]
    return [Ended(*each) for each in zip(codes, texts, points, strict=True)]


def prepare(place: Path) -> None:
    """Put one of everything into a place."""
    load()
    for name in ("pool", "data", "update.kfu", "benchmark.json"):
        source = RECORD / name
        shutil.copytree(source, place / name) if source.is_dir() else shutil.copyfile(source, place / name)
    lines = [
        "assemble --tasks sea@horse pets --out assembly", "assemble --tasks sea@horse élan --out new/assembly",
        "diff assembly new/assembly --out step.kfu", "keygen mine", "export assembly --out artifacts",
        "pool remove pool --tasks pets sea@horse --out one", "pool remove pool --tasks élan ünï/c --out two",
    ]  # fmt: skip
    for line in lines:
        ended = together([split(line)], place)[0]
        if ended.code:
            raise SystemExit(f"{line}: {ended.error}")


def split(line: str) -> list[str]:
    """Return the words of a line, in which `@` stands for a space."""
    return [word.replace("@", " ") for word in line.split()]


def files(path: Path) -> State:
    """Return every file of a folder that is not hidden, or the file's own bytes; None where there is nothing."""
    if not os.path.lexists(path):
        return None
    if path.is_file():
        return {"": path.read_bytes()}
    names = {each.relative_to(path).as_posix(): each for each in sorted(path.rglob("*")) if each.is_file()}
    return {name: each.read_bytes() for name, each in names.items() if not name.startswith(".") and "/." not in name}


def whole_pool(path: Path) -> None:
    """Raise where a pool is not whole."""
    from kfdeploy.pool.edit import faults
    from kfdeploy.pool.pool import Pool

    pool = Pool.open(path)
    pool.check()
    if found := faults(pool):
        raise ValueError(str(found))


def whole_model(path: Path) -> None:
    """Raise where an assembly is not whole, but for an update that was interrupted, which the next one finishes."""
    from kfdeploy.deploy.model import Model
    from kfdeploy.errors import PoolError

    try:
        Model.open(path).check()
    except PoolError as error:
        if "was interrupted" not in str(error):
            raise


def whole_artifact(path: Path) -> None:
    """Raise where an artifact is not whole."""
    from kfdeploy.deploy.artifact import Artifact

    for each in path.iterdir():
        if not each.name.startswith("."):
            Artifact.open(each).check()


def whole_update(path: Path) -> None:
    """Raise where an update is not whole."""
    from kfdeploy.deploy.update.file import Update

    Update.read(path)


def whole_key(path: Path) -> None:
    """Raise where a key is none."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    load_pem_private_key(path.read_bytes(), None)


def whole_text(path: Path) -> None:
    """Raise where a page has no end."""
    if "</html>" not in path.read_text(encoding="utf-8"):
        raise ValueError("the page has no end")


class Scenario(NamedTuple):
    """A line that writes, where it writes to, how that is looked at, and what must be done before."""

    line: str
    out: str
    whole: Callable[[Path], None]
    first: str = ""


_APPLY = "apply step.kfu assembly --unsigned"

SCENARIOS = {
    "assemble": Scenario("assemble --tasks pets élan --out out", "out", whole_model),
    "assemble --force": Scenario("assemble --tasks pets élan --out assembly --force", "assembly", whole_model),
    "export": Scenario("export assembly --out made", "made", whole_artifact),
    "export --force": Scenario("export assembly --out artifacts --force --kit", "artifacts", whole_artifact),
    "calibrate": Scenario("calibrate pool --images 8", "pool", whole_pool),
    "pool remove": Scenario("pool remove pool --tasks élan", "pool", whole_pool),
    "pool remove --out": Scenario("pool remove pool --tasks élan --out smaller", "smaller", whole_pool),
    "pool merge": Scenario("pool merge one two --out merged", "merged", whole_pool),
    "pool convert": Scenario("pool convert pool --half --out half", "half", whole_pool),
    "diff": Scenario("diff assembly new/assembly --out x.kfu", "x.kfu", whole_update),
    "keygen": Scenario("keygen update", "update.key", whole_key),
    "sign": Scenario("sign step.kfu --key mine.key", "step.kfu", whole_update),
    "apply": Scenario(_APPLY, "assembly", whole_model),
    "rollback": Scenario("rollback assembly", "assembly", whole_model, _APPLY),
    "report": Scenario("report benchmark.json --out page.html", "page.html", whole_text),
}


@contextmanager
def place_for(cut: bool) -> Iterator[tuple[Path, Any]]:
    """Give a place to write in: on a disk of its own where its power is to be cut, which is None else."""
    from powercut import Disk

    with tempfile.TemporaryDirectory() as folder:
        if not cut:
            (Path(folder) / "place").mkdir()
            yield Path(folder) / "place", None
            return
        with Disk(Path(folder) / "ext4", 48) as disk:
            yield disk.place, disk


def sweep(name: str, every: int, *, cut: bool) -> dict[str, Any]:
    """Kill a verb, or cut its power, at every n-th change of the disk, and after its end; return what was found."""
    if cut:
        from powercut import refused

        with tempfile.TemporaryDirectory() as folder:
            if why := refused(Path(folder)):
                return {"tried": 0, "torn": 0, "bad": [], "ext4": why}
    scenario, found = SCENARIOS[name], {"tried": 0, "old": 0, "new": 0, "absent": 0, "tracebacks": 0, "torn": 0}
    bad: list[dict[str, Any]] = []
    with place_for(cut) as (place, disk):
        prepare(place)
        if scenario.first and (ended := together([split(scenario.first)], place)[0]).code:
            raise SystemExit(f"{scenario.first}: {ended.error}")
        saved = place.parent / "kept"
        disk.save() if cut else shutil.copytree(place, saved)
        old, point = files(place / scenario.out), 0
        ended = together([split(scenario.line)], place, 0)[0]
        new, last = files(place / scenario.out), ended.points
        if ended.code or not last:
            raise SystemExit(f"{scenario.line}: {ended}")
        for point in [*range(1, last + 1, every), 0]:
            _restore(place, saved, disk)
            ended = together([split(scenario.line)], place, point, disk.cut_and_die if cut else None)[0]
            if cut:
                if not point:
                    disk.cut_from_here()
                disk.start_again()
            side, why = _looked(scenario, place, old, new)
            if not point and (ended.code or side != "new"):
                side, why = "torn", why or f"after exit {ended.code} it is {side}: {ended.error[-200:]}"
            elif point and ended.code != -signal.SIGKILL and ended.code:
                why = f"exit {ended.code}: {ended.error[-300:]}"
            found["tried"] += 1
            found[side] += 1
            found["tracebacks"] += "Traceback" in ended.error
            if side == "torn" or why:
                bad.append({"point": point, "side": side, "why": why})
    return {**found, "points": last, "bad": bad, **({"ext4": "a loop mount"} if cut else {})}


def _restore(place: Path, saved: Path, disk: Any) -> None:
    if disk is not None:
        disk.restore()
        return
    shutil.rmtree(place)
    shutil.copytree(saved, place)


def _looked(scenario: Scenario, place: Path, old: State, new: State) -> tuple[str, str]:
    """Return which side a place is on, and what is wrong with it."""
    now = files(place / scenario.out)
    if now is None:
        return ("absent", "") if old is None else ("torn", "the old one is gone")
    side = "old" if now == old else "new"
    try:
        scenario.whole(place / scenario.out)
    except Exception as error:
        return "torn", repr(error)[:300]
    if side == "new" and new is not None and scenario.out == "assembly" and now["model.onnx"] not in (
        new["model.onnx"], (old or new)["model.onnx"]
    ):  # fmt: skip
        return "torn", "the graph is neither the old nor the new one"
    return side, ""


class Race(NamedTuple):
    """Lines of which process i runs the i-th, round and round; what is looked at; and how many must succeed."""

    lines: tuple[str, ...]
    out: str
    whole: Callable[[Path], None]
    winners: str  # "one", "all", "some" or "any"


_ONE, _LESS = "assemble --tasks pets élan --out out", "pool remove pool --tasks élan"
_RANGES = "calibrate pool --images 8"
_ADD = "factorize --add-task junk --pool pool --data data --set train.epochs=1"
RACES = {
    "assemble": Race((_ONE,), "out", whole_model, "one"),
    "assemble --force --wait": Race((f"{_ONE} --force --wait",), "out", whole_model, "all"),
    "assemble --force": Race(("assemble --tasks pets élan --out assembly --force",), "assembly", whole_model, "some"),
    "export": Race(("export assembly --out made",), "made", whole_artifact, "one"),
    "pool remove": Race((_LESS, "pool remove pool --tasks ünï/c"), "pool", whole_pool, "some"),
    "pool remove --wait": Race(tuple(f"pool remove pool --tasks {name} --wait" for name in ("élan", "ünï/c", "pets")),
                               "pool", whole_pool, "some"),
    "calibrate --wait": Race((f"{_RANGES} --wait",), "pool", whole_pool, "all"),
    "calibrate and remove": Race((_RANGES, _LESS), "pool", whole_pool, "some"),
    "remove and assemble": Race((_LESS, _ONE), "pool", whole_pool, "some"),
    "apply": Race((_APPLY,), "assembly", whole_model, "some"),
    # Where the one that holds the lock has nothing to go back to, nobody wins.
    "apply and rollback": Race((_APPLY, "rollback assembly"), "assembly", whole_model, "any"),
    "calibrate and --add-task": Race((_RANGES, _ADD), "pool", whole_pool, "some"),
    "--add-task": Race((_ADD,), "pool", whole_pool, "some"),
}  # fmt: skip


def race(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Run processes at once, round after round; return what was found."""
    asked, bad, began = RACES[name], [], time.monotonic()
    found = {"tried": 0, "won": 0, "told": 0, "tracebacks": 0, "torn": 0}
    with tempfile.TemporaryDirectory() as folder:
        place, saved = Path(folder) / "place", Path(folder) / "kept"
        place.mkdir()
        prepare(place)
        shutil.copytree(place, saved)
        for number in range(rounds):
            _restore(place, saved, None)
            ended = together([split(asked.lines[i % len(asked.lines)]) for i in range(count)], place)
            if why := _judged(asked, ended, place, found):
                bad.append({"round": number, "why": why, "ended": [(each.code, each.error[-300:]) for each in ended]})
    return {**found, "seconds": round(time.monotonic() - began, 1), "bad": bad}


def _judged(asked: Race, ended: list[Ended], place: Path, found: dict[str, int]) -> str:
    """Count a round, and return what is wrong with it."""
    losers = [each for each in ended if each.code]
    won = len(ended) - len(losers)
    traced = sum("Traceback" in each.error or each.code < 0 for each in ended)
    told = sum(any(text in each.error for text in TOLD) for each in losers)
    whys = [] if traced == 0 else ["a traceback"]
    try:
        asked.whole(place / asked.out)
        torn = bool([path for path in place.rglob(".*") if path.name.endswith((".partial", ".replaced", ".lock"))])
        whys += ["something was left"] if torn else []
    except Exception as error:
        torn = True
        whys.append(repr(error)[:300])
    for key, value in zip(found, (1, won, told, traced, torn), strict=True):
        found[key] += value
    whys += ["somebody was not told"] if told != len(losers) else []
    if {"one": won != 1, "all": won != len(ended), "some": won < 1, "any": False}[asked.winners]:
        whys.append(f"{won} of {len(ended)} won")
    return ", ".join(whys)
