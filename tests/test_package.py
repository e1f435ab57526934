"""The package itself: what importing loads, what the wheel holds, what the README promises."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

import kfdeploy

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(kfdeploy.__path__, "kfdeploy.") if "__main__" not in module.name
)


def test_importing_the_package_loads_next_to_nothing():
    code = "import sys, kfdeploy; print(sorted({'torch','numpy','onnx','onnxruntime','pydantic','typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_module_outside_training_imports_without_torch():
    names = [name for name in MODULES if not name.startswith("kfdeploy.training.")]
    names += [name for name in MODULES if name.startswith("kfdeploy.training.recipe")]  # read without torch too
    code = (
        "import sys, importlib\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'sklearn', 'openvino', 'lightning_fabric', 'matplotlib'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_and_no_others():
    for name in kfdeploy.__all__:
        importlib.import_module(f"kfdeploy.{name}" if f"kfdeploy.{name}" in MODULES else "kfdeploy")
        for _ in range(2):  # a module of the same name must not take a verb's place
            assert callable(getattr(kfdeploy, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = kfdeploy.nothing


def test_modules_are_documented_and_short():
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
        assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) <= 400, name


def test_other_folders_hold_no_packages():
    for folder in ("recipes", "export", "benchmarks"):
        assert not list((ROOT / folder).rglob("__init__.py"))


def readme_commands():
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [
        piece
        for line in lines
        for piece in re.split(r"\s*&&\s*", line.removeprefix("$ "))
        if piece.startswith("kfdeploy ")
    ]


def test_every_command_of_the_readme_is_one(monkeypatch):
    """Each verb and option of the README exists: parsed by the real command line, without running it."""
    import typer.main

    from kfdeploy.cli import app

    group = typer.main.get_command(app)
    assert len(readme_commands()) >= 8
    for command in readme_commands():
        words = command.partition("#")[0].split()
        found = group.commands.get(words[1])
        if hasattr(found, "commands"):  # a group: kfdeploy pool check
            found = found.commands.get(words[2])
        assert found is not None, command
        known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, command


def test_the_readmes_first_lines_set_it_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install -e ".[all]" && kfdeploy demo' in text
    assert 'pip install -e ".[all,dev]" && pytest' in text


@pytest.mark.slow
@pytest.mark.skipif("CI" not in os.environ, reason="builds a wheel and installs it; runs in CI")
def test_the_wheel_holds_recipes_and_works_without_torch(tmp_path, toy):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"kfdeploy/_data/recipes/digits.toml", "kfdeploy/py.typed", "kfdeploy/_data/export/README.md"} <= names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"kfdeploy"}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)
    kfdeploy_command = str(tmp_path / "venv" / "bin" / "kfdeploy")

    def run(*words):
        done = subprocess.run([kfdeploy_command, *words], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    assert run("assemble", "--tasks", "pets", "élan", "--pool", str(toy.pool))[0] == 0
    assert run("export", "assembly", "--target", "onnx")[0] == 0
    code, out = run("benchmark", "--quick", "--json", "b.json")
    assert code == 0, out
    assert "no picture" in out
    code, out = run("export", "assembly", "--target", "openvino")
    assert code == 1
    assert 'pip install "kfdeploy[openvino]"' in out
    code, out = run("factorize", "digits")
    assert code == 1
    assert 'pip install "kfdeploy[train]"' in out
    assert "digits" in run("recipes", "list")[1]
