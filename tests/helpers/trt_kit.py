"""What the tests of the TensorRT target share: an artifact with its kit, and the kit's programs under the fakes."""

import importlib.util
import json
import sys
import types
from dataclasses import asdict
from pathlib import Path

import trt_fakes

from kfdeploy.manifest import describe_files
from kfdeploy.targets import tensorrt as target
from kfdeploy.targets.kits import write_kit

HERE = Path(__file__).parent
KIT = HERE.parent.parent / "export" / "tensorrt"
VERSIONS = {10: "10.16.1.11", 11: "11.4.0.106"}


def program(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def artifact(folder, assembly, **options):
    """Export with the kit beside it; return the options."""
    made = target.Options(**options)
    assert target.convert(assembly.graph, folder, made) == ["model.onnx"]
    write_kit(folder, "tensorrt")
    manifest = {key: assembly.manifest[key] for key in ("image", "tasks", "version", "data", "parameters")} | {
        "schema": 1, "kind": "artifact", "options": asdict(made), "model": {"kind": "assembly", "name": assembly.name},
        "target": "trt", "precision": made.precision, "verify": {"engine_tolerance": 0.1},
        "model_files": ["model.onnx"], "files": describe_files(folder, [folder / "model.onnx"]),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return made


def install(monkeypatch, version):
    """Put the fakes in TensorRT's and CUDA's places; return what they do and note."""
    world = trt_fakes.World()
    cuda, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    bindings.runtime = trt_fakes.cuda(world)
    monkeypatch.setitem(sys.modules, "tensorrt", trt_fakes.module(version, world))
    for module in (cuda, bindings, bindings.runtime):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return world


def build(folder, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["build.py", *words])
    program(folder / "build.py").main()


def session(folder, threads=1, **changed):
    options = json.loads((folder / "manifest.json").read_text())["options"] | changed
    return program(folder / "session.py").Session(folder, {"options": options}, threads, "single-stream")
