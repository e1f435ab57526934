"""What is MNN's own: its precisions, its errors, and what it must not do. The contract suite does the rest."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from places import EXPORT

from kfdeploy.errors import MissingDependencyError, OutputError, PoolError, UnsupportedError
from kfdeploy.targets import mnn
from kfdeploy.targets.base import Setup

pytestmark = pytest.mark.skipif(bool(mnn.missing()), reason=f"MNN is not installed: {mnn.missing()}")
# Largest difference from the torch network's logits, as a share of the largest logit. Measured on this toy with
# MNN 3.6.1: 1.1e-6, 3.6e-4 and 6.6e-3; on a trained ResNet-20 and 2,000 images of CIFAR-10: 1.3e-6, 6.5e-4 and 8.0e-3.
BOUNDS = {"fp32": 1e-5, "fp16": 3e-3, "int8": 5e-2}


@pytest.fixture(params=list(mnn.GRAPHS))
def converted(request, assembly, tmp_path):
    options = mnn.Options(request.param)
    assert mnn.convert(assembly.graph, tmp_path, options) == ["model.mnn"]
    return tmp_path, options


def logits(folder, options, images, threads=1):
    with mnn.open(folder, options, Setup(threads=threads)) as session:
        return session.run({"image": images})["logits"]


def test_every_precision_gives_the_golden_logits(converted, assembly):
    evidence, (folder, options) = assembly.evidence(), converted
    found = logits(folder, options, evidence.images)
    assert np.abs(found - evidence.golden).max() <= BOUNDS[options.precision] * np.abs(evidence.golden).max()
    assert (found.argmax(1) == evidence.golden.argmax(1)).mean() >= 0.9


def test_rows_do_not_influence_one_another_in_any_precision(converted, assembly):
    images, (folder, options) = assembly.evidence().images, converted
    with mnn.open(folder, options, Setup()) as session:
        whole = session.run({"image": images})["logits"]
        alone = np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])
        # every other row: an array that is not contiguous
        other = session.run({"image": images[::2]})["logits"]
    assert np.abs(whole - alone).max() <= 1e-5 * np.abs(whole).max()
    assert np.abs(whole[::2] - other).max() <= 1e-5 * np.abs(whole).max()


def test_converting_twice_gives_the_same_bytes(converted, assembly, tmp_path_factory):
    folder, options = converted
    again = tmp_path_factory.mktemp("again")
    mnn.convert(assembly.graph, again, options)
    assert (again / "model.mnn").read_bytes() == (folder / "model.mnn").read_bytes()


def test_two_sessions_of_one_file_and_two_threads(converted, assembly):
    images, (folder, options) = assembly.evidence().images, converted
    with mnn.open(folder, options, Setup()) as one, mnn.open(folder, options, Setup(threads=2)) as two:
        first, second = one.run({"image": images[:5]})["logits"], two.run({"image": images})["logits"]
        assert np.abs(one.run({"image": images})["logits"] - second).max() <= 1e-5
    assert np.abs(second[:5] - first).max() <= 1e-5


def test_float16_weights_are_rounded_and_not_cut(assembly, tmp_path):
    options = mnn.Options("fp16")
    mnn.convert(assembly.graph, tmp_path, options)
    rounded = tmp_path / "rounded.onnx"
    rounded.write_bytes(assembly.graph.read_bytes())
    mnn._round_weights(rounded)
    images = assembly.evidence().images
    expected = onnxruntime.InferenceSession(rounded, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    if list(mnn.executed(tmp_path, options)["convolutions"]) == ["fp32"]:
        assert np.abs(logits(tmp_path, options, images) - expected).max() <= 1e-5


def test_what_is_executed(converted, assembly):
    folder, options = converted
    found = mnn.executed(folder, options)
    assert found["device"] == "CPU"
    # MNN splits grouped convolutions, so there are at least as many as in the graph
    there = sum(node.op_type == "Conv" for node in onnx.load(assembly.graph).graph.node)
    (kind, count), *more = found["convolutions"].items()
    assert more == []
    assert count == found["nodes"]["Convolution"] >= there
    assert kind == "fp32" or (kind == "fp16" and options.precision == "fp16")


def test_smaller_weights_make_smaller_files(assembly, tmp_path):
    sizes = []
    for precision in ("fp32", "fp16", "int8"):
        mnn.convert(assembly.graph, tmp_path, mnn.Options(precision))
        sizes.append((tmp_path / "model.mnn").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2]


@pytest.mark.parametrize(
    ("fields", "what"), [({"precision": "int4"}, "has no precision 'int4'"), ({"batch": -1}, "-1")]
)
def test_bad_options_are_refused(fields, what):
    with pytest.raises(UnsupportedError, match=what):
        mnn.Options(**fields)


def test_inputs_that_mnn_would_not_notice_are_refused(assembly, tmp_path):
    mnn.convert(assembly.graph, tmp_path, mnn.Options(batch=4))
    images = assembly.evidence().images[:4]
    with mnn.open(tmp_path, mnn.Options(batch=4), Setup()) as session:
        assert session.run({"image": images})["logits"].shape == (4, 3)
        for wrong in (images[:3], images[:0], images[:, :4], images[..., :1], images[0]):
            with pytest.raises(ValueError, match=r"the input 'image' has shape .* \(allowed: \(4, 8, 8, 3\)\)"):
                session.run({"image": wrong})
        with pytest.raises(ValueError, match=r"the input 'image' is float32 \(allowed: uint8\)"):
            session.run({"image": images.astype(np.float32)})
    mnn.convert(assembly.graph, tmp_path, mnn.Options())
    with (
        mnn.open(tmp_path, mnn.Options(), Setup()) as session,
        pytest.raises(ValueError, match=r"\('N', 8, 8, 3\)"),
    ):
        session.run({"image": images[:0]})


def test_what_cannot_be_converted_says_why(tmp_path):
    with pytest.raises(
        UnsupportedError, match="MNN cannot convert this graph: These Op Not Support: ONNX::Nonsense"
    ) as caught:
        mnn.convert(graph(tmp_path, "Nonsense"), tmp_path, mnn.Options())
    assert caught.value.hint == "kfdeploy export --target onnx"
    (tmp_path / "none.onnx").write_bytes(b"this is no graph")
    with pytest.raises(UnsupportedError, match="MNN cannot convert this graph: Invalid ONNX Model:/model.onnx$"):
        mnn.convert(tmp_path / "none.onnx", tmp_path, mnn.Options())
    assert not (tmp_path / "model.mnn").exists()


def test_a_weight_beyond_float16_is_refused(assembly, tmp_path):
    model = onnx.load(assembly.graph)
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e5), name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(UnsupportedError, match=f"the weight '{name}' reaches 1e\\+05, and float16 ends at 65504"):
        mnn.convert(tmp_path / "large.onnx", tmp_path, mnn.Options("fp16"))


def test_a_broken_file_says_so(tmp_path):
    (tmp_path / "model.mnn").write_bytes(b"this is no model")
    with pytest.raises(PoolError, match="MNN cannot read"), mnn.open(tmp_path, mnn.Options(), Setup()):
        pass


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("does", "told"), [("kill -SEGV $$", "MNN crashed over it"), ("sleep 5", "not run it after 0 s")]
)
def test_what_would_end_the_process_ends_another(does, told, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(mnn, "_TRIAL_SECONDS", 0.2)
    with pytest.raises(PoolError, match=told):
        mnn.try_first(tmp_path, mnn.Options(), (8, 8, 3))
    program.write_text("#!/bin/sh\nexit 1\n")
    mnn.try_first(tmp_path, mnn.Options(), (8, 8, 3))  # what it says in words is said by who opens it


def test_nothing_but_ours_is_on_standard_output(assembly, tmp_path):
    code = (
        "import json, sys; from pathlib import Path; from kfdeploy.targets import mnn; from kfdeploy.targets.base import Setup\n"
        "folder = Path(sys.argv[2]); mnn.convert(Path(sys.argv[1]), folder, mnn.Options())\n"
        "with mnn.open(folder, mnn.Options(), Setup()): print(json.dumps(mnn.executed(folder, mnn.Options())))"
    )
    command = [sys.executable, "-c", code, str(assembly.graph), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["device"] == "CPU"


def test_the_converter_is_called_without_its_wrapper():
    # the wrapper, MNN.tools.mnnconvert, runs `pip install` and calls a server when it is imported
    code = f"{mnn._CONVERTER}; print(any(name.startswith('MNN') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_without_mnn_it_says_what_to_type(monkeypatch, assembly, tmp_path):
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(MissingDependencyError, match="MNN is not installed") as caught:
        mnn.convert(assembly.graph, tmp_path, mnn.Options())
    assert caught.value.hint == 'pip install "kfdeploy[mnn]"'


def test_the_kit_gives_the_same_logits(converted, assembly, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("mnn_session", EXPORT / "mnn" / "session.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    images, (folder, options) = assembly.evidence().images, converted
    session = kit.Session(folder, {"precision": options.precision}, 1, "single-stream")
    first = session.run(images)
    kept = first.copy()
    assert session.run(images[:1]).shape == (1, 3)
    assert np.array_equal(first, kept)
    assert np.abs(first - logits(folder, options, images)).max() <= 1e-5
    (tmp_path / "model.mnn").write_bytes(b"this is no model")
    with pytest.raises(SystemExit, match=r"error: MNN cannot read 'model.mnn'"):
        kit.Session(tmp_path, {"precision": "fp32"}, 1, "single-stream")
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(ModuleNotFoundError, match="MNN"):  # which the kit's programs and `KitSession` explain
        kit.Session(folder, {"precision": "fp32"}, 1, "single-stream")


def graph(folder, kind):
    """Write a graph with one operator that MNN does not know."""
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=1), helper.make_node(kind, ["float"], ["logits"])]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    made = helper.make_graph(nodes, "graph", [image], [result])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "odd.onnx")
    return folder / "odd.onnx"


def test_a_temporary_folder_without_room_is_refused(monkeypatch, assembly, tmp_path):
    """MNN itself would crash there."""
    monkeypatch.setattr(mnn, "_ROOM", 1 << 60)
    with pytest.raises(OutputError, match="the temporary folder .* and MNN needs") as caught:
        mnn.convert(assembly.graph, tmp_path, mnn.Options())
    assert "TMPDIR" in caught.value.hint
    monkeypatch.setattr("tempfile.mkdtemp", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="there is no temporary folder: No space left"):
        mnn.convert(assembly.graph, tmp_path, mnn.Options())
