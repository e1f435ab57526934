"""The house: every import goes down, no circles, torch in one wing, and what goes to a device stands alone."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest
from covered import COVERED

import kfdeploy

# From the ground up; what stands on one floor does not know its neighbours.
FLOORS = {
    "kfdeploy": ("arrays quiet shown version", "errors", "names reading schema", "files", "writing", "locks places", "outputs", "manifest",
                 "graph tasks", "targets", "data", "pool", "deploy", "measuring training", "report", "cli", "__main__"),
    "kfdeploy.pool": ("fields", "manifest ranges remote", "held", "pool", "convert designs edit plan push"),
    "kfdeploy.deploy": ("identity", "artifact parity swap", "model", "assemble calibrate here predict prepare verify", "export update"),
    "kfdeploy.training": ("recipe objectives", "nets", "loop", "transfer", "learners", "experiment", "writing",
                          "factorize grow separate", "distill"),
}  # fmt: skip
TORCH = {"torch", "torchvision", "timm", "lightning_fabric", "onnxscript", "onnx_ir"}
ASKED_FOR = {("kfdeploy.data.sources", "torchvision")}  # its data sets, by name, inside one function
ROOT = Path(kfdeploy.__file__).parent
MODULES = {".".join(("kfdeploy", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
           for path in ROOT.rglob("*.py") if "_data" not in path.parts}  # fmt: skip


def imported(path):
    """Return the full names of all that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items() if name != "kfdeploy"}


def test_every_import_goes_down():
    wrong = []
    for place, floors in FLOORS.items():
        floor = {room: i for i, rooms in enumerate(floors) for room in rooms.split()}
        inside = {
            name: name.removeprefix(f"{place}.").split(".")[0] for name in MODULES if name.startswith(f"{place}.")
        }
        wrong += [f"{name} stands on no floor of {place}" for name, room in inside.items() if room not in floor]
        wrong += [
            f"{name} imports {other}" for name, room in inside.items() for other in IMPORTS[name] & inside.keys()
            if inside[other] != room and floor.get(inside[other], 99) >= floor.get(room, 99)
        ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    graphlib.TopologicalSorter(
        {name: (found & MODULES.keys()) - {name, "kfdeploy"} for name, found in IMPORTS.items()}
    ).prepare()


def test_torch_is_for_training_alone():
    outside = {
        (name, other.split(".")[0])
        for name, found in IMPORTS.items()
        for other in found
        if not name.startswith("kfdeploy.training")
    }
    assert not {pair for pair in outside if pair[1] in TORCH} - ASKED_FOR
    assert not [
        pair
        for pair in IMPORTS.items()
        if not pair[0].startswith(("kfdeploy.training", "kfdeploy.cli"))
        and any(o.startswith("kfdeploy.training") for o in pair[1])
    ]


@pytest.mark.parametrize("room", ["kfdeploy.targets.device", "kfdeploy.tasks.kinds"])
def test_what_goes_to_a_device_stands_alone(room):
    there = [name for name in MODULES if name.startswith(f"{room}.")]
    assert there
    assert {other.split(".")[0] for name in there for other in IMPORTS[name]} <= {
        "numpy",
        "PIL",
        *sys.stdlib_module_names,
    }


RECORDS = {
    "manifest",
    "pool.fields",
    "pool.held",
    "pool.manifest",
    "pool.pool",
    "deploy.model",
    "deploy.artifact",
    "deploy.update.file",
    "tasks.spec",
}


def test_manifests_are_opened_by_their_records_alone():
    """`manifest["…"]` stands in the typed records; everybody else asks those."""
    wrong = []
    for name, path in MODULES.items():
        if name.removeprefix("kfdeploy.") in RECORDS or name.startswith("kfdeploy.targets.device."):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                of = node.value
                if (isinstance(of, ast.Attribute) and of.attr == "manifest") or (
                    isinstance(of, ast.Name) and of.id == "manifest"
                ):
                    wrong.append(f"{name}, line {node.lineno}")
    assert not wrong


def test_nothing_imports_the_public_face_and_no_room_is_called_like_a_verb():
    assert not [name for name, found in IMPORTS.items() if "kfdeploy" in found]
    assert not {path.stem for path in ROOT.iterdir()} & set(kfdeploy.__all__)


PYTHON = [path for room in ("kfdeploy", "export", "benchmarks", "tests") for path in sorted((ROOT.parent / room).rglob("*.py"))
          if "records" not in path.parts]  # fmt: skip


def test_no_file_is_longer_than_400_lines():
    assert PYTHON
    assert not [str(path) for path in PYTHON if len(path.read_text(encoding="utf-8").splitlines()) > 400]


def test_a_function_of_more_than_60_lines_says_why():
    """In a comment of its own that begins with "Long"."""
    wrong = []
    for path in PYTHON:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = lines[node.lineno - 1 : node.end_lineno]
                if len(own) > 60 and not any(line.strip().startswith("# Long ") for line in own):
                    wrong.append(f"{path}, {node.name}: {len(own)} lines")
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_test_or_a_line_that_says_which_covers_it():
    here = Path(__file__).parent
    rooms = {path.relative_to(ROOT).with_suffix("") for path in MODULES.values() if path.name != "__init__.py"}
    own = {room.as_posix() for room in rooms if (here / room.parent / f"test_{room.name}.py").is_file()}
    assert own | COVERED.keys() == {room.as_posix() for room in rooms}
    assert not own & COVERED.keys()
    assert not [test for test in COVERED.values() if not (here / f"{test}.py").is_file()]
