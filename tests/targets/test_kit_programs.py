"""A kit's programs as they meet a device: an old Python, a reader that leaves, a runtime that does not load."""

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from kfdeploy.deploy.export import export
from kfdeploy.errors import MissingDependencyError, unloaded
from kfdeploy.targets.base import Setup
from kfdeploy.targets.kits import GROUND, OWN, kits
from kfdeploy.targets.onnx import Options
from kfdeploy.targets.session import KitSession

OLDEST = 9  # of Python 3: Debian 11 has it
COPIED = [*sorted(kits().rglob("*.py")), *sorted(OWN.glob("*.py")), *GROUND]
STACK = "libMNN.so: cannot enable executable stack as shared object requires: Invalid argument"
# Everything that is copied compiles, and what the three programs share is imported, numpy and Pillow left out.
IMPORTED = """
import sys, types
sys.modules.update(numpy=types.ModuleType("numpy"), PIL=types.ModuleType("PIL"))
for path in sys.argv[2:]:
    with open(path, encoding="utf-8") as file:
        compile(file.read(), path, "exec")
sys.path[:0] = [sys.argv[1]]
import bench, check, run
"""


def test_what_is_copied_needs_no_newer_python_by_its_names():
    pytest.importorskip("vermin")
    words = ["-q", "--violations", "--no-tips", f"-t=3.{OLDEST}-", *map(str, COPIED)]
    done = subprocess.run(
        [sys.executable, "-c", "import vermin; vermin.main()", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def interpreter(minor):
    """Return the path of a Python 3.x that starts, or None; a version manager's may not by its name alone."""
    found = shutil.which(f"python3.{minor}")
    for more in ({}, {"PYENV_VERSION": f"3.{minor}"}) if found else ():
        words = [found, "-c", "import sys; print(sys.executable)"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **more})
        if done.returncode == 0:
            return done.stdout.strip()
    return None


@pytest.mark.parametrize("minor", range(OLDEST, 14))
def test_what_is_copied_is_imported_by_every_python_that_is_here(minor, tmp_path):
    python = interpreter(minor)
    if python is None:
        pytest.skip(f"there is no Python 3.{minor}")
    for base, place in ((kits() / "common", tmp_path), (kits() / "onnxruntime", tmp_path), (OWN, tmp_path / "device")):
        shutil.copytree(base, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in GROUND:
        shutil.copy(path, tmp_path / "device" / path.name)
    words = ["-c", IMPORTED, str(tmp_path), *map(str, COPIED)]
    done = subprocess.run([python, *words], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kit(assembly, tmp_path):
    return export(assembly, "onnx", kit=True, out=tmp_path / "artifacts").path


def into_closed_pipe(folder, *words):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *words], cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGPIPE")
@pytest.mark.parametrize("program", ["check.py", "run.py", "bench.py"])
def test_a_reader_that_leaves_ends_a_program_quietly(program, kit, toy, tmp_path):
    place = tmp_path / "device.json"
    images = next((toy.data / "test").iterdir())
    words = {"run.py": [str(images)], "bench.py": ["--quick", "--scenario", "offline", "--json", str(place)]}
    done = into_closed_pipe(kit, program, *words.get(program, []))
    assert done.stderr == ""
    assert done.returncode != 0
    assert program != "bench.py" or place.is_file()  # minutes of measuring are not lost with it


def test_a_reader_that_leaves_ends_kfdeploy_quietly(kit):
    for words in (["--version"], ["--help"], ["recipes", "keys"], ["verify", str(kit)]):
        done = into_closed_pipe(kit, "-m", "kfdeploy", *words)
        assert (done.stderr, done.returncode) == ("", 1)


def broken(folder, name, why):
    """Put a package into a folder that fails to load."""
    (folder / f"{name}.py").write_text(f"raise {why}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("why", "said", "hint"),
    [
        ("ModuleNotFoundError('none', name='onnxruntime')", "ONNX Runtime is not installed",
         "pip install -r requirements.txt"),
        ("ModuleNotFoundError(\"No module named 'x'\", name='x')",
         "the runtime is installed and cannot be loaded: No module named 'x'",
         "pip install --force-reinstall -r requirements.txt"),
        ("ImportError('libgomp.so.1: cannot open\\nmore')",
         "the runtime is installed and cannot be loaded: libgomp.so.1: cannot open",
         "pip install --force-reinstall -r requirements.txt"),
        (f"ImportError({STACK!r})", f"the runtime is installed and cannot be loaded: {STACK}",
         "GLIBC_TUNABLES=glibc.rtld.execstack=2 python {}"),
    ],
)  # fmt: skip
def test_a_kit_says_why_its_runtime_does_not_load(why, said, hint, kit):
    broken(kit, "onnxruntime", why)
    for program in ("check.py", "bench.py"):
        words = ["--quick"] if program == "bench.py" else []
        done = subprocess.run([sys.executable, program, *words], cwd=kit, capture_output=True, text=True, check=False)
        assert done.stderr.splitlines() == [f"error: {said}", f"hint:  {hint.format(program)}"]
        assert done.returncode == 1


def test_every_runtime_of_a_kit_is_known_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "device", types.ModuleType("device"))
    monkeypatch.syspath_prepend(str(OWN.parent))
    spec = importlib.util.spec_from_file_location("kit_of_test", kits() / "common" / "kit.py")
    module = importlib.util.module_from_spec(spec)
    for name, own in (
        ("pixels", "kfdeploy.targets.device.pixels"),
        ("quiet", "kfdeploy.quiet"),
        ("shown", "kfdeploy.shown"),
    ):
        monkeypatch.setitem(sys.modules, f"device.{name}", importlib.import_module(own))
        monkeypatch.setattr(sys.modules["device"], name, importlib.import_module(own), raising=False)
    spec.loader.exec_module(module)
    for name in ("onnxruntime", "openvino", "MNN", "tensorrt", "cuda", "cuda.bindings"):
        assert "is not installed\nhint:" in module.unloaded(ModuleNotFoundError("none", name=name))
        assert "cannot be loaded: no" in module.unloaded(ImportError("no", name=name))


def test_kfdeploy_says_why_a_package_does_not_load():
    absent = unloaded(ModuleNotFoundError("none", name="MNN"), "MNN", "MNN is not installed", "pip install MNN")
    assert (absent.what, absent.hint) == ("MNN is not installed", "pip install MNN")
    for error in (ImportError("libx.so: no"), ModuleNotFoundError("libx.so: no", name="MNN.x")):
        found = unloaded(error, "MNN", "MNN is not installed", "pip install MNN")
        assert found.what == "MNN is installed and cannot be loaded: libx.so: no"
        assert found.hint == "pip install --force-reinstall MNN"
    assert unloaded(ImportError(STACK), "MNN", "", "").hint == "GLIBC_TUNABLES=glibc.rtld.execstack=2 kfdeploy …"


def test_a_session_whose_runtime_does_not_load_is_an_error_of_ours(kit, tmp_path, monkeypatch):
    broken(tmp_path, "onnxruntime", f"ImportError({STACK!r})")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(str(tmp_path))
    session = KitSession("onnxruntime", kit, Options(), Setup())
    with pytest.raises(MissingDependencyError, match="onnxruntime is installed and cannot be loaded") as caught:
        session.__enter__()
    assert caught.value.hint.startswith("GLIBC_TUNABLES=")


def test_the_oldest_versions_are_the_same_everywhere():
    import tomllib

    from kfdeploy import targets

    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["openvino"]]
    needed = {kit: (kits() / kit / "requirements.txt").read_text().splitlines() for kit in ("onnxruntime", "openvino")}
    for name, kit in needed.items():
        line = f"{name}>={'.'.join(map(str, targets.OLDEST[name]))}"
        assert line in wanted
        assert line in kit
