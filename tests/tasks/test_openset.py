"""None of these: the score, its threshold, and the output `known` on every target."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from runtimes import session

from kfdeploy import targets
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.parity import compare
from kfdeploy.deploy.predict import predict
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import ParityError, PoolError, TaskError, UnsupportedError
from kfdeploy.graph.known import add_known
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds.classes import auroc
from kfdeploy.tasks.openset import open_set, scores, thresholds_of
from kfdeploy.tasks.spec import TaskSpec

HERE = [name for name in ("onnx", "openvino", "mnn") if not targets.load(name).can_run()]


@pytest.fixture(scope="module")
def opened(toy, tmp_path_factory):
    return assemble(toy.pool, ["pets", "sea horse"], tmp_path_factory.mktemp("open") / "assembly", open_set=0.25)


def evidence(logits, labels):
    empty = np.empty((0, 1), np.float32)
    return Evidence(empty, empty, {"class": tuple(labels)}, np.arange(len(labels)), np.asarray(logits, np.float32))


def test_the_score_is_the_logarithm_of_the_mass():
    logits = np.array([[0.0, 0.0], [1000.0, 1000.0], [-3.0, 2.0]])
    expected = [np.log(2), 1000 + np.log(2), np.log(np.exp(-3) + np.exp(2))]
    np.testing.assert_allclose(scores(logits), expected)


def test_the_area_counts_pairs():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 9, 40), random.integers(0, 9, 30)
    pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
    assert auroc(a, b) == pytest.approx(pairs)
    assert auroc(np.array([2.0]), np.array([1.0])) == 1
    assert np.isnan(auroc(a, b[:0]))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.34, 0.99])
def test_no_more_strangers_than_asked_for_are_let_in(rate):
    random = np.random.default_rng(1)
    logits = np.concatenate([random.normal(2, 1, (50, 2)), random.normal(0, 1, (60, 2))]).astype(np.float32)
    labels = ["cat"] * 25 + ["dog"] * 25 + ["fish"] * 60
    found = open_set(evidence(logits, labels), [TaskSpec("pets", ("cat", "dog"))], rate)
    score = scores(logits)
    let_in = (score[50:] >= found.threshold).mean()
    assert let_in <= rate
    assert let_in > rate - 1 / 60 - 1e-9  # and no fewer than could be
    assert found.accepted == (score[:50] >= found.threshold).mean()
    assert (found.known_images, found.other_images) == (50, 60)
    assert found.auroc == auroc(score[:50], score[50:])


def test_the_output_is_the_score_less_the_threshold(toy, opened):
    images = np.random.default_rng(5).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    run = session(opened.graph, 1)
    assert [output.name for output in run.get_outputs()] == ["logits", "known"]
    found, known = run.run(None, {"image": images})
    about = opened.manifest["open_set"]
    np.testing.assert_allclose(known, scores(found) - about["threshold"], atol=1e-5)
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(opened.graph).metadata_props}
    assert metadata["kfdeploy"]["open_set"]["threshold"] == about["threshold"]
    # What the manifest says of the validation images is what their stored logits give.
    pool = Pool.open(toy.pool)
    assert about == open_set(pool.evidence(opened.tasks), opened.tasks, 0.25).to_json() | {
        "threshold": about["threshold"]
    }


def test_one_class_alone_becomes_a_detector(toy, tmp_path):
    model = assemble(toy.pool, ["élan"], tmp_path / "one", open_set=0.1)
    images = model.evidence().images
    logits, known = session(model.graph, 1).run(None, {"image": images})
    np.testing.assert_allclose(known, logits[:, 0] - model.manifest["open_set"]["threshold"], atol=1e-5)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_target_has_it(opened, tmp_path, target, precision):
    made = export(opened, target, precision=precision, out=tmp_path, fuse="branches" if precision == "fp16" else None)
    assert made.manifest["outputs"]["known"] == ["float32", "N"]
    assert made.manifest["open_set"] == opened.manifest["open_set"]
    images = made.golden()[0]
    with made.session(Setup()) as run:
        outputs = run.run({"image": images})
    assert sorted(outputs) == ["known", "logits"]
    margin = scores(outputs["logits"]) - opened.manifest["open_set"]["threshold"]
    assert outputs["known"].shape == (len(images),)
    np.testing.assert_allclose(outputs["known"], margin, atol=0.1 if precision == "fp16" else 1e-3)
    assert verify(made.path).passed


@pytest.mark.parametrize("target", HERE)
def test_every_kit_says_it(opened, toy, tmp_path, target):
    made = export(opened, target, out=tmp_path, kit=True)
    image = next((toy.data / "test" / "cat").glob("*"))
    done = subprocess.run([sys.executable, "run.py", str(image)], cwd=made.path, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (expected,) = predict(opened.path, [image])
    line = json.loads(done.stdout)
    assert line["known"] == pytest.approx(expected.known, abs=1e-3)
    assert subprocess.run([sys.executable, "check.py"], cwd=made.path, check=False, capture_output=True).returncode == 0


def test_a_prediction_says_none_of_these(opened, toy, capsys):
    from kfdeploy.cli.predict import command

    images = sorted((toy.data / "test").rglob("*.png"))
    found = predict(opened.path, images)
    assert {each.known < 0 for each in found} == {True, False}
    command(images, opened.path, top=3, threads=1, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [": none of these (else " in line for line in lines] == [each.known < 0 for each in found]
    command(images[:1], opened.path, top=3, threads=1, json=True)
    assert json.loads(capsys.readouterr().out)["known"] == pytest.approx(found[0].known)


def test_what_cannot_be_told(toy, tmp_path):
    with pytest.raises(TaskError, match="no class is left out: every validation image is of one of these tasks"):
        assemble(toy.pool, toy.tasks, tmp_path / "all", open_set=0.05)
    for rate in (1.0, -0.1):
        with pytest.raises(UnsupportedError, match="--false-accept is"):
            assemble(toy.pool, ["pets"], tmp_path / "rate", open_set=rate)
    parts = assemble(toy.pool, ["pets", "élan"], tmp_path / "plain").path / "parts"
    with pytest.raises(PoolError, match="chosen on validation logits, and there are none"):
        assemble(parts, ["pets"], tmp_path / "again", open_set=0.05)
    assert not any((tmp_path / name).exists() for name in ("all", "rate", "again"))


def test_an_output_that_does_not_fit_is_refused(opened):
    class Fake:
        def __init__(self, logits, known):
            self.outputs = {"logits": logits, "known": known}

        def run(self, inputs):
            return self.outputs

    evidence = opened.evidence()
    threshold = opened.manifest["open_set"]["threshold"]
    right = (scores(evidence.golden) - threshold).astype(np.float32)
    held = {"tasks": opened.tasks, "thresholds": {"logits": threshold}}
    assert compare(Fake(evidence.golden, right), evidence.images, evidence.golden, **held).passed
    for wrong, words in ((right + 5, "differs by 5 from"), (right[:, None], "has shape"), (right * np.nan, "by inf")):
        with pytest.raises(ParityError, match=words):
            compare(Fake(evidence.golden, wrong), evidence.images, evidence.golden, **held)
    with pytest.raises(ParityError, match=r"outputs are \['logits', 'known'\]"):
        compare(Fake(evidence.golden, right), evidence.images, evidence.golden, opened.tasks)


def test_a_threshold_is_of_a_field_that_is_there():
    tasks = [TaskSpec("a", ("x",), field="shape"), TaskSpec("b", ("y",))]
    told = {"class": {"threshold": 2}, "shape": {"threshold": 1.5}}
    assert list(thresholds_of(told, tasks).items()) == [("shape", 1.5), ("logits", 2.0)]
    assert thresholds_of({"threshold": 1.5}, tasks[1:]) == {"logits": 1.5}
    assert thresholds_of(None, tasks) == {}
    with pytest.raises(PoolError, match="of the field 'colour', and it has none such"):
        thresholds_of({"colour": {"threshold": 0.5}}, tasks)
    for wrong in ({"threshold": 0.5}, {"shape": {"threshold": "1"}}, {"shape": 1}, 7):
        with pytest.raises(PoolError, match="the threshold of its open set is"):
            thresholds_of(wrong, tasks)


def test_a_graph_keeps_its_logits(opened, toy, tmp_path):
    plain = onnx.load(assemble(toy.pool, ["pets", "sea horse"], tmp_path / "plain").graph)
    added = add_known(onnx.load(tmp_path / "plain" / "model.onnx"), 1.5)
    onnx.checker.check_model(added, full_check=True)
    assert list(added.graph.node)[: len(plain.graph.node)] == list(plain.graph.node)
    assert Model.open(tmp_path / "plain").manifest.get("open_set") is None
