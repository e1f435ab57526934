"""One suite for every target: what a session and a conversion must do."""

import numpy as np
import pytest

from kfdeploy import targets
from kfdeploy.errors import MissingDependencyError, UnsupportedError
from kfdeploy.targets.base import Device

NAMES = sorted(targets.TARGETS)


@pytest.fixture(params=NAMES)
def target(request):
    return targets.load(request.param)


def test_it_is_named_as_the_table_says(target):
    assert targets.TARGETS[target.NAME].endswith(target.NAME)
    assert target.missing() == ""
    assert "fp32" in target.PRECISIONS
    assert target.Options().batch == 0
    assert targets.state(target.NAME).startswith(target.TITLE)


def test_it_gives_the_golden_logits_and_outputs_belong_to_the_caller(target, assembly, tmp_path):
    files = target.convert(assembly.graph, tmp_path, target.Options())
    assert all((tmp_path / name).is_file() for name in files)
    evidence = assembly.evidence()
    with target.open(tmp_path, Device()) as session:
        first = session.run({"image": evidence.images})
        session.synchronize()
        kept = first["logits"].copy()
        session.run({"image": evidence.images[::-1].copy()})
        assert np.array_equal(first["logits"], kept)
    assert list(first) == ["logits"]
    assert first["logits"].dtype == np.float32
    assert np.abs(kept - evidence.golden).max() <= 1e-4 * max(1, np.abs(evidence.golden).max())


def test_rows_of_a_batch_do_not_influence_one_another(target, assembly, tmp_path):
    target.convert(assembly.graph, tmp_path, target.Options())
    images = assembly.evidence().images
    with target.open(tmp_path, Device()) as session:
        whole = session.run({"image": images})["logits"]
        alone = np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])
    assert np.abs(whole - alone).max() <= 1e-5 * max(1, np.abs(whole).max())


def test_a_fixed_batch_is_fixed(target, assembly, tmp_path):
    target.convert(assembly.graph, tmp_path, target.Options(batch=4))
    images = assembly.evidence().images
    with target.open(tmp_path, Device(threads=2)) as session:
        assert session.run({"image": images[:4]})["logits"].shape == (4, 3)
        with pytest.raises(Exception):  # noqa: B017, PT011 - each runtime has its own
            session.run({"image": images[:5]})


def test_converting_twice_gives_the_same_graph(target, assembly, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files = target.convert(assembly.graph, tmp_path / name, target.Options())
    for name in files:
        if target.NAME == "onnx" or name.endswith(".bin"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_not_there_yet_says_so():
    with pytest.raises(UnsupportedError, match=r"target 'trt' \(TensorRT\) is not there yet") as caught:
        targets.load("trt")
    assert caught.value.exit_code == 2
    with pytest.raises(UnsupportedError, match="there is no target 'openvin'") as caught:
        targets.load("openvin")
    assert caught.value.hint == "did you mean 'openvino'?"
    for name in NAMES:
        with pytest.raises(UnsupportedError, match=f"precision 'int8' of target '{name}' is not there yet"):
            targets.load(name, "int8")
        with pytest.raises(UnsupportedError, match="is unknown"):
            targets.load(name, "fp23")


def test_a_missing_runtime_says_what_to_type(monkeypatch):
    import kfdeploy.targets.openvino as module

    monkeypatch.setattr(module, "missing", lambda: "pip install it")
    with pytest.raises(MissingDependencyError, match="the runtime of target 'openvino' is not installed") as caught:
        targets.load("openvino")
    assert caught.value.hint == "pip install it"
    assert "is not installed" in targets.state("openvino")
