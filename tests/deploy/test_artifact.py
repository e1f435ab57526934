import json
import shutil

import numpy as np
import pytest

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.export import export
from kfdeploy.deploy.here import find_models
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import OutputError, ParityError, PoolError, UnsupportedError
from kfdeploy.files import load_tensors, save_tensors
from kfdeploy.targets.base import Setup


def test_an_artifact_says_what_it_is(artifacts):
    for artifact in artifacts:
        artifact.check()
        assert Artifact.open(artifact.path).manifest == artifact.manifest
        verify = artifact.manifest["verify"]
        assert verify["difference"] <= verify["tolerance"]
        assert artifact.manifest["inputs"] == {"image": ["uint8", "N", 8, 8, 3]}
        assert artifact.bytes > 1000
        assert len(artifact.sha256) == 64
    assert [artifact.path.name for artifact in artifacts] == [
        "assembly-onnx-fp32", "assembly-openvino-fp32", "small-onnx-fp32", "small-openvino-fp32", "teacher-onnx-fp32",
    ]  # fmt: skip
    assert [artifact.kind for artifact in artifacts] == ["assembly", "assembly", "student", "student", "teacher"]
    golden, logits, expected = artifacts[0].golden()
    assert np.abs(logits - expected).max() <= 1e-4
    assert (golden.dtype, golden.shape[1:], logits.shape[1]) == (np.uint8, (8, 8, 3), 3)


def test_openvino_weights_stay_in_fp32(artifacts):
    weights = artifacts[1].path / "model.bin"
    assert weights.stat().st_size >= 4 * artifacts[1].manifest["parameters"]


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_fixed_batch_is_verified_too(assembly, target, tmp_path):
    artifact = export(assembly, target, batch=3, out=tmp_path)
    assert artifact.batch == 3
    with artifact.session(Setup()) as session:
        assert session.run({"image": artifact.golden()[0][:3]})["logits"].shape == (3, 3)


def test_a_difference_too_large_leaves_nothing_and_names_what_would_pass(assembly, tmp_path):
    with pytest.raises(ParityError, match=r"differs from the torch network by .* and 1e-12 is allowed") as caught:
        export(assembly, "openvino", atol=1e-12, out=tmp_path)
    assert not list(tmp_path.iterdir())
    words = caught.value.hint.split()
    assert words[0] == "--atol"
    export(assembly, "openvino", atol=10 * float(words[1]), out=tmp_path)  # of the first step: others may need more


def test_wrong_golden_samples_are_caught(toy, tmp_path):
    student = tmp_path / "small"
    shutil.copytree(toy.students / "small", student)
    path = student / "evidence" / "evidence.safetensors"
    arrays = load_tensors(path)
    from kfdeploy.manifest import describe_files

    for wrong, message in (
        (3.0, "worst task: 'sea horse'; to blame: the network of 'sea horse'"),
        (np.nan, "the golden logits are not finite: sample 0, column 2 is nan"),
        (np.inf, "the golden logits are not finite: sample 0, column 2 is inf"),
    ):
        arrays["golden.logits"][0, 2] += wrong
        save_tensors(path, arrays, {})
        manifest = json.loads((student / "assembly.json").read_text())
        manifest["files"] |= describe_files(student, [path])
        (student / "assembly.json").write_text(json.dumps(manifest))
        with pytest.raises(ParityError, match=message):
            export(student, "onnx", out=tmp_path / "out")
        with pytest.raises(ParityError, match=message):
            verify(student)
        arrays["golden.logits"][0, 2] = 0


def test_arguments_are_checked_before_files(tmp_path):
    with pytest.raises(UnsupportedError, match="target 'onnx' has no precision 'int9'") as caught:
        export(tmp_path / "none", "onnx", precision="int9")
    assert caught.value.hint == "did you mean 'int8'?"
    with pytest.raises(UnsupportedError, match="target 'openvino' has no option 'provider'"):
        export(tmp_path / "none", "openvino", provider="x")
    with pytest.raises(UnsupportedError, match="--fuse is 'bnak'") as caught:
        export(tmp_path / "none", "onnx", fuse="bnak")
    assert caught.value.hint == "did you mean 'bank'?"
    with pytest.raises(UnsupportedError, match="the batch is -1"):
        export(tmp_path / "none", "onnx", batch=-1)
    with pytest.raises(PoolError, match="there is no assembly at"):
        export(tmp_path / "none", "onnx")


def test_a_place_that_is_taken_and_a_folder_that_is_damaged(assembly, tmp_path):
    made = export(assembly, "onnx", out=tmp_path)
    with pytest.raises(OutputError, match="is already there"):
        export(assembly, "onnx", out=tmp_path)
    export(assembly, "onnx", out=tmp_path, force=True)
    graph = made.path / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    with pytest.raises(PoolError, match="its manifest says"):
        Artifact.open(made.path).check()
    manifest = json.loads((made.path / "manifest.json").read_text())
    for edit, message in (
        ({"schema": 3}, "has schema 3"),
        ({"kind": "pool"}, "describes a 'pool'"),
        ({"files": {"../x": {}}}, "names a file outside it"),
        ({"options": {}}, "is incomplete"),
        ({"verify": {}}, "is incomplete: .engine_tolerance."),
    ):
        (made.path / "manifest.json").write_text(json.dumps(manifest | edit))
        with pytest.raises(PoolError, match=message):
            Artifact.open(made.path)


def test_models_to_export_are_found(toy, here):
    with pytest.raises(PoolError, match="there is neither an 'assembly' nor 'students' here"):
        find_models([])
    shutil.copytree(toy.students, here / "students")
    shutil.copytree(toy.pool, here / "pool")
    assert [str(path) for path in find_models([])] == ["students/small", "pool/train/teacher"]
    assert [str(path) for path in find_models(["x"])] == ["x"]
    assert Model.open("pool/train/teacher").kind == "teacher"
