"""TensorRT without a GPU: the calls against the real bindings of two versions, the flow against fakes, the graph."""

import ast
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest
import trt_fakes

from kfdeploy.targets import tensorrt as target

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
    shutil.copytree(KIT, folder, dirs_exist_ok=True)
    manifest = {"schema": 1, "kind": "artifact", "options": asdict(made)}
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


@pytest.fixture
def world(monkeypatch):
    return install(monkeypatch, VERSIONS[11])


def build(folder, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["build.py", *words])
    program(folder / "build.py").main()


def session(folder, threads=1, **changed):
    options = json.loads((folder / "manifest.json").read_text())["options"] | changed
    return program(folder / "session.py").Session(folder, {"options": options}, threads, "single-stream")


# (a) the real bindings


@pytest.mark.parametrize("major", VERSIONS)
def test_every_call_is_one_of_the_real_bindings(major, tmp_path):
    version = VERSIONS[major]
    command = [sys.executable, str(HERE / "trt_bindings.py"), version, str(tmp_path)]
    done = subprocess.run([*command, str(KIT / "build.py"), str(KIT / "session.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    if "unavailable" in said:
        pytest.skip(said["unavailable"])
    assert said["problems"] == []
    assert said["version"] == version
    assert said["classes"] == 21
    assert said["names"] > 20
    gone = ["trt.BuilderFlag.FP16 is not there"] * (major == 11)
    assert [*gone, "trt.Nothing is not there"] == said["control"][: len(gone) + 1]
    wrong = said["control"][len(gone) + 1 :]
    assert wrong[0] == "Wrong.int8_calibrator is not there" or major == 10
    assert wrong[-2:] == ["Wrong.clear_flag is a method", "Wrong.set_flag takes [[('flag', False)]], not ['number']"]


def test_every_call_is_one_of_cudas_own():
    real = pytest.importorskip("cuda.bindings.runtime")
    fake = trt_fakes.cuda(trt_fakes.World())
    used = set(re.findall(r"\b(?:runtime|self\.cuda|cuda)\.(cuda\w+)(?:\.(\w+))?", "".join(
        path.read_text() for path in (KIT / "build.py", KIT / "session.py", Path(target.__file__))
    )))  # fmt: skip
    assert len(used) > 8
    for name, member in used:
        assert hasattr(fake, name), name
        assert hasattr(getattr(real, name), member or "__doc__"), (name, member)
        if not member:
            first = getattr(real, name).__doc__.splitlines()[0]
            theirs = re.findall(r"(\w+)(?=\s*(?:,|\)|:))", first[first.index("(") :])
            theirs = [word for word in theirs if word != "cudaMemcpyKind"]
            assert theirs == list(inspect.signature(getattr(fake, name)).parameters), first


def test_no_flag_is_a_number():
    flags = {"clear_flag", "set_flag", "set_memory_pool_limit", "create_network", "get_engine_information"}
    for path in (KIT / "build.py", KIT / "session.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        called = {node.func.attr: node.args[0] for node in calls if getattr(node.func, "attr", "") in flags}
        assert called
        assert not any(isinstance(first, ast.Constant) for first in called.values())


# (b) the kit


@pytest.mark.parametrize("major", VERSIONS)
def test_an_engine_is_built_from_a_graph_with_a_dynamic_batch(major, assembly, tmp_path, monkeypatch, capsys):
    world = install(monkeypatch, VERSIONS[major])
    artifact(tmp_path, assembly, min_batch=1, opt_batch=4, max_batch=16, workspace_mb=64, optimization_level=5)
    build(tmp_path, monkeypatch)
    assert world.of("create_network") == [(2 if major == 10 else 0,)]  # the fake's STRONGLY_TYPED is 1
    assert world.of("clear_flag") == [("TF32",)]
    assert world.of("set_memory_pool_limit") == [("WORKSPACE", 64 << 20)]
    assert world.of("set_shape") == [("image", (1, 8, 8, 3), (4, 8, 8, 3), (16, 8, 8, 3))]
    assert world.of("build") == [(5, "DETAILED")]
    assert world.names().index("clear_flag") < world.names().index("build")
    assert world.of("Logger") == [("WARNING",)]
    record = json.loads((tmp_path / "engine.json").read_text())
    assert (record["tensorrt"], record["gpu"], record["profile"]) == (VERSIONS[major], "Fake 1000", [1, 4, 16])
    assert capsys.readouterr().out.endswith("next: python check.py\n")
    assert not list(tmp_path.glob(".*"))


def test_a_fixed_batch_has_no_profile(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, batch=4)
    build(tmp_path, monkeypatch, "--verbose")
    assert "set_shape" not in world.names()
    assert "add_optimization_profile" not in world.names()
    assert json.loads((tmp_path / "engine.json").read_text())["profile"] == [4, 4, 4]
    assert world.of("Logger") == [("INFO",)]


def test_the_timing_cache_is_used_again(assembly, tmp_path, monkeypatch, world, capsys):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)
    build(tmp_path, monkeypatch)
    assert world.of("create_timing_cache") == [(b"",), (trt_fakes.CACHE,)]
    assert world.of("set_timing_cache") == [(False,), (False,)]
    world.done.clear()
    world.fresh_cache_only = True
    build(tmp_path, monkeypatch)
    assert world.of("create_timing_cache") == [(trt_fakes.CACHE,), (b"",)]
    assert "timing.cache is of another device, or damaged, and is made anew" in capsys.readouterr().err


def test_what_the_parser_does_not_read_is_printed(assembly, tmp_path, monkeypatch, world, capsys):
    artifact(tmp_path, assembly)
    world.errors = ("no such thing", "nor this")
    with pytest.raises(SystemExit, match=r"error: TensorRT does not read model.onnx \(2 errors, above\)"):
        build(tmp_path, monkeypatch)
    assert capsys.readouterr().err == "Conv 'conv_1': no such thing\nConv 'conv_1': nor this\n"
    assert not (tmp_path / "model.engine").exists()


def test_a_build_that_gives_nothing_leaves_nothing(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    before = sorted(path.name for path in tmp_path.iterdir())
    world.builds = False
    with pytest.raises(SystemExit, match="error: TensorRT could not build an engine"):
        build(tmp_path, monkeypatch)
    world.builds, world.profile_index = True, -1
    with pytest.raises(SystemExit, match=r"TensorRT does not take the batches \[1, 1, 32\]"):
        build(tmp_path, monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_engine_is_whole_or_not_there(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)
    whole = (tmp_path / "model.engine").read_bytes()
    renamed, replace = [], Path.replace

    def stop(path, other):
        renamed.append(other.name)
        if other.name == "model.engine":
            assert path.read_bytes() == whole
            raise KeyboardInterrupt
        return replace(path, other)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, monkeypatch)
    assert renamed == ["timing.cache", "model.engine"]
    assert (tmp_path / "model.engine").read_bytes() == whole
    assert not (tmp_path / "engine.json").exists()  # an engine of which nothing is known is refused
    with pytest.raises(SystemExit, match="there is no engine here"):
        session(tmp_path)


def test_other_versions_and_a_missing_tensorrt_are_refused(assembly, tmp_path, monkeypatch):
    artifact(tmp_path, assembly)
    for version in ("8.6.1", "9.3.0", "12.0.0"):
        install(monkeypatch, version)
        with pytest.raises(SystemExit, match=f"this is TensorRT {version}, and this kit knows 10 and 11"):
            build(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(SystemExit, match="TensorRT is not installed\nhint:  pip install -r requirements.txt"):
        build(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="TensorRT is not installed"):
        session(tmp_path)


def test_a_machine_without_a_gpu_is_told(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)

    def nothing(*_):
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(sys.modules["tensorrt"], "Builder", nothing)
    monkeypatch.setattr(sys.modules["tensorrt"], "Runtime", nothing)
    with pytest.raises(SystemExit, match="TensorRT does not start here"):
        build(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="TensorRT does not start here"):
        session(tmp_path)
    runtime = sys.modules["cuda.bindings.runtime"]
    monkeypatch.setattr(runtime, "cudaStreamCreate", lambda: (runtime.cudaError_t.cudaErrorInsufficientDriver, None))
    with pytest.raises(SystemExit, match="there is no GPU driver, or it is older than cuda-bindings"):
        session(tmp_path)
    monkeypatch.setattr(runtime, "cudaStreamCreate", lambda: (runtime.cudaError_t.cudaErrorMemoryAllocation, None))
    with pytest.raises(SystemExit, match="CUDA answers cudaErrorMemoryAllocation"):
        session(tmp_path)


def test_the_session_gives_what_the_graph_gives(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, max_batch=16)
    build(tmp_path, monkeypatch)
    images, golden = assembly.evidence().images, assembly.evidence().golden
    opened = session(tmp_path)
    assert (opened.smallest, opened.largest) == (1, 16)
    first = opened.run(images)
    assert np.abs(first - golden).max() <= 1e-4 * max(1, np.abs(golden).max())
    kept = first.copy()
    alone = np.concatenate([opened.run(images[i : i + 1]) for i in range(len(images))])
    assert np.array_equal(first, kept)  # the outputs belong to the caller
    assert np.abs(alone - first).max() <= 1e-5 * max(1, np.abs(first).max())
    assert np.array_equal(opened.run(images[::-1])[::-1], first)  # whatever the strides
    # every image is waited for, in the order of one stream
    assert {entry[-1] for entry in world.of("copy")} == {7}
    assert world.names()[-4:] == ["copy", "execute", "copy", "wait"]
    opened.close()
    assert not world.buffers
    assert world.of("destroy") == [(7,)]


def test_the_session_refuses_what_the_engine_does_not_take(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, min_batch=2, opt_batch=2, max_batch=4)
    build(tmp_path, monkeypatch)
    images, opened = assembly.evidence().images, session(tmp_path)
    for count in (1, 5):
        with pytest.raises(SystemExit, match=f"{count} images were given at a time, and this engine takes 2 to 4"):
            opened.run(np.resize(images, (count, 8, 8, 3)))
    with pytest.raises(
        SystemExit, match=r"the images are float32 \(2, 8, 8, 3\), the engine takes uint8 \(N, 8, 8, 3\)"
    ):
        opened.run(images[:2].astype(np.float32))
    with pytest.raises(SystemExit, match=r"the images are uint8 \(2, 8, 7, 3\)"):
        opened.run(images[:2, :, :7])
    with pytest.raises(SystemExit, match="2 threads were asked for, and a GPU has none to set"):
        session(tmp_path, threads=2)


def test_the_session_refuses_an_engine_of_something_else(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    with pytest.raises(SystemExit, match="there is no engine here: it is built on the device\nhint:  python build.py"):
        session(tmp_path)
    build(tmp_path, monkeypatch)
    session(tmp_path)
    with pytest.raises(SystemExit, match="model.engine was built with .*, and .*'max_batch': 8.* is asked for"):
        session(tmp_path, max_batch=8)
    world.loads = False
    with pytest.raises(SystemExit, match="TensorRT cannot load model.engine, which fits the GPU"):
        session(tmp_path)
    install(monkeypatch, "11.5.0")
    with pytest.raises(
        SystemExit, match=f"built by TensorRT {VERSIONS[11]}, and this is 11.5.0\nhint:  python build.py"
    ):
        session(tmp_path)
    target.convert(assembly.graph, tmp_path, target.Options(batch=4))
    with pytest.raises(SystemExit, match="model.engine was built from another model.onnx\nhint:  python build.py"):
        session(tmp_path)


def test_the_readme_says_what_is_there():
    text = (KIT / "README.md").read_text()
    assert "has not been run on a device yet" in text
    named = set(re.findall(r"python (\w+\.py)", text))
    assert named == {"build.py", "check.py", "run.py", "bench.py"}
    assert all(any((place / name).is_file() for place in (KIT, KIT.parent / "common")) for name in named)


# (c) the target


def test_a_session_of_the_target_is_the_kits(assembly, tmp_path, monkeypatch, world):
    options = artifact(tmp_path, assembly)
    with pytest.raises(DeviceError, match="has no engine: it is built on the device") as caught:
        target.open(tmp_path, options, Device())
    assert caught.value.hint.startswith("python build.py")
    build(tmp_path, monkeypatch)
    images, golden = assembly.evidence().images, assembly.evidence().golden
    assert target.can_run() == ""
    with target.open(tmp_path, options, Device()) as opened:
        found = opened.run({"image": images})
        opened.synchronize()
        assert list(found) == ["logits"]
        assert np.abs(found["logits"] - golden).max() <= 1e-4 * max(1, np.abs(golden).max())
        with pytest.raises(
            DeviceError, match="33 images were given at a time, and this engine takes 1 to 32"
        ) as caught:
            opened.run({"image": np.resize(images, (33, 8, 8, 3))})
        assert caught.value.hint.startswith("give it fewer or more")
    assert not world.buffers
    with pytest.raises(DeviceError, match="2 threads were asked for"), target.open(tmp_path, options, Device(2)):
        pass
    (tmp_path / "session.py").unlink()
    with pytest.raises(PoolError, match="has no device kit"), target.open(tmp_path, options, Device()):
        pass


def test_what_is_executed(assembly, tmp_path, monkeypatch, world):
    options = artifact(tmp_path, assembly)
    found = target.executed(tmp_path, options)
    assert (found["device"], found["convolutions"]) == ("not built", {})
    assert found["nodes"]["Cast"] == 1
    assert found["nodes"]["Conv"] > 1
    build(tmp_path, monkeypatch)
    assert target.executed(tmp_path, options) == {
        "device": "Fake 1000",
        "convolutions": {"fp16": 1, "fp32": 1, "int8": 1},
        "nodes": {"CaskConvolution": 1, "Convolution": 1, "Reformat": 1, "kgen": 1, "unknown": 1},
    }


def test_a_machine_that_cannot_run_says_why(assembly, tmp_path, monkeypatch, world):
    options = artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)
    runtime = sys.modules["cuda.bindings.runtime"]
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (runtime.cudaError_t.cudaErrorInsufficientDriver, None))
    assert target.can_run() == "there is no GPU that CUDA can use (cudaErrorInsufficientDriver)"
    with pytest.raises(DeviceError, match="there is no GPU that CUDA can use"):
        target.open(tmp_path, options, Device())
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (runtime.cudaError_t.cudaSuccess, 0))
    assert target.can_run() == "there is no GPU"
    assert target.executed(tmp_path, options)["device"] == "not built"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert target.can_run() == "cuda-bindings is not installed"
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert target.can_run() == "TensorRT is not installed"
    with pytest.raises(MissingDependencyError, match="TensorRT is not installed") as caught:
        target.open(tmp_path, options, Device())
    assert caught.value.hint == 'pip install "tensorrt>=10,<12" cuda-bindings'
    assert target.missing() == ""  # exporting needs none of it


def test_the_target_builds_with_the_kit(assembly, tmp_path, monkeypatch, world):
    options = artifact(tmp_path, assembly)
    with pytest.raises(UnsupportedError, match="was exported with .*'batch': 0.*, not with .*'batch': 2"):
        target.build(tmp_path, target.Options(batch=2))
    place = tmp_path / "fakes"
    place.mkdir()
    code = "import trt_fakes\nglobals().update(vars(trt_fakes.module('VERSION', trt_fakes.World())))\n"
    (place / "tensorrt.py").write_text(code.replace("VERSION", VERSIONS[10]))
    monkeypatch.setenv("PYTHONPATH", f"{place}:{HERE}")
    target.build(tmp_path, options)
    assert json.loads((tmp_path / "engine.json").read_text())["tensorrt"] == VERSIONS[10]
    (place / "tensorrt.py").write_text(code.replace("VERSION", "9.0.0"))
    with pytest.raises(DeviceError, match="no engine could be built in .*: error: this is TensorRT 9.0.0") as caught:
        target.build(tmp_path, options)
    assert caught.value.hint.startswith("python build.py")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp61"}, r"target 'trt' has no precision 'fp61' \(allowed: fp32, fp16, int8\)"),
        ({"batch": -1}, r"the batch is -1 \(allowed: 0 \(dynamic\), 1, 2, …\)"),
        ({"min_batch": 0}, r"the profile is min_batch 0, opt_batch 1, max_batch 32 \(allowed: 1 ≤ min_batch"),
        ({"opt_batch": 64}, "the profile is min_batch 1, opt_batch 64, max_batch 32"),
        ({"min_batch": 2}, "the profile is min_batch 2, opt_batch 1, max_batch 32"),
        ({"batch": 4, "max_batch": 8}, "the batch is fixed at 4, and the profile is .* max_batch 8"),
        ({"workspace_mb": 0}, "workspace_mb is 0"),
        ({"optimization_level": 6}, r"optimization_level is 6 \(allowed: 0, 1, 2, 3, 4, 5\)"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(wrong, message):
    with pytest.raises(UnsupportedError, match=message):
        target.Options(**wrong)
