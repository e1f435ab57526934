"""TensorRT without a GPU: the calls against the real bindings of two versions, and the target under the fakes."""

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trt_fakes
from trt_kit import HERE, KIT, VERSIONS, artifact, build, install

from kfdeploy.errors import DeviceError, MissingDependencyError, UnsupportedError
from kfdeploy.targets import tensorrt as target
from kfdeploy.targets.base import Setup


@pytest.fixture
def world(monkeypatch):
    return install(monkeypatch, VERSIONS[11])


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


def test_a_session_of_the_target_is_the_kits(assembly, tmp_path, monkeypatch, world):
    options = artifact(tmp_path, assembly)
    with pytest.raises(DeviceError, match="has no engine: it is built on the device") as caught:
        target.open(tmp_path, options, Setup())
    assert caught.value.hint.startswith("python build.py")
    build(tmp_path, monkeypatch)
    images, golden = assembly.evidence().images, assembly.evidence().golden
    assert target.can_run() == ""
    with target.open(tmp_path, options, Setup()) as opened:
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
    with pytest.raises(DeviceError, match="2 threads were asked for"), target.open(tmp_path, options, Setup(2)):
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
        target.open(tmp_path, options, Setup())
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (runtime.cudaError_t.cudaSuccess, 0))
    assert target.can_run() == "there is no GPU"
    assert target.executed(tmp_path, options)["device"] == "not built"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert target.can_run() == "cuda-bindings is not installed"
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert target.can_run() == "TensorRT is not installed"
    with pytest.raises(MissingDependencyError, match="TensorRT is not installed") as caught:
        target.open(tmp_path, options, Setup())
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
