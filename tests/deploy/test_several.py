"""Several fields from a pool to the device: assembled, exported, verified, asked, updated, and run by the kit."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fields import RECORD, field_pool
from PIL import Image

from kfdeploy.cli.assemble import command as assemble_command
from kfdeploy.cli.predict import command as predict_command
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.parity import judge
from kfdeploy.deploy.predict import predict
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import diff, write_update
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import ParityError, PoolError, TaskError
from kfdeploy.graph.reference import run_joined
from kfdeploy.tasks.openset import scores
from kfdeploy.tasks.spec import TaskSpec, outputs_of
from kfdeploy.tasks.worth import accuracies

ODD = "lit, at dusk/é"
ALL = ["edged", "sea horse", "lit", "round", "pets"]


@pytest.fixture(scope="module")
def several(fields, tmp_path_factory):
    """An assembly of all five tasks, asked for with those of one field apart."""
    return assemble(fields, ALL, tmp_path_factory.mktemp("several") / "assembly")


@pytest.fixture(scope="module")
def opened(fields, tmp_path_factory):
    """Tasks of two fields of which some are left out, and of one that is whole."""
    return assemble(fields, ["round", "lit", "pets"], tmp_path_factory.mktemp("open") / "assembly", open_set=0.2)


@pytest.fixture
def photos(several, tmp_path):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(several.evidence().images[:4]):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def edit(path, change):
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_field_is_an_output_and_its_tasks_stand_together(several):
    several.check()
    assert [task.name for task in several.tasks] == ["edged", "round", "sea horse", "pets", "lit"]
    assert outputs_of(several.tasks) == ["shape", "logits", ODD]
    graph = several.load()
    assert [value.name for value in graph.graph.output] == ["shape", "logits", ODD]
    told = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert "classes" not in told
    assert told["outputs"]["logits"] == ["sea horse", "cat", "dog"]
    assert told["outputs"][ODD] == ["no", "yes"]
    assert several.manifest["schema"] == told["kfdeploy"]["schema"] == 2
    assert verify(several.path).passed
    found = run_joined(several.graph, several.evidence().images, outputs_of(several.tasks))
    assert np.abs(found - several.evidence().golden).max() <= 1e-4 * max(1, np.abs(found).max())


def test_what_schema_1_can_say_is_said_in_it(fields, tmp_path):
    alone = assemble(fields, ["sea horse", "pets"], tmp_path / "class")
    assert alone.manifest["schema"] == 1
    assert all("field" not in entry for entry in alone.manifest["tasks"])
    told = {entry.key: entry.value for entry in alone.load().metadata_props}
    assert json.loads(told["classes"]) == ["sea horse", "cat", "dog"]
    artifact = export(alone, out=tmp_path)
    assert artifact.manifest["schema"] == 1
    assert list(artifact.manifest["outputs"]) == ["logits"]


@pytest.mark.parametrize("target", ["onnx", "openvino", "mnn"])
def test_one_other_field_has_its_own_name_everywhere(target, fields, photos, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "mnn": "MNN"}.get(target, target))
    alone = assemble(fields, ["lit"], tmp_path / "lit")
    assert [value.name for value in alone.load().graph.output] == [ODD]
    assert "Split" not in {node.op_type for node in alone.load().graph.node}
    artifact = export(alone, target, out=tmp_path)
    artifact.check()
    assert verify(artifact.path).passed
    assert artifact.manifest["outputs"] == {ODD: ["float32", "N", 2]}
    (first, *_) = predict(artifact.path, [photos])
    assert first.to_json()["answers"][ODD]["classes"][0]["class"] in ("no", "yes")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_artifact_says_its_outputs(precision, several, tmp_path):
    artifact = export(several, precision=precision, out=tmp_path)
    artifact.check()
    assert artifact.manifest["outputs"] == {
        "shape": ["float32", "N", 5], "logits": ["float32", "N", 3], ODD: ["float32", "N", 2],
    }  # fmt: skip
    assert artifact.manifest["schema"] == 2
    assert verify(artifact.path).passed
    assert set(artifact.proof["tasks"]) == set(ALL)
    other = export(several, precision=precision, fuse="branches", batch=1, out=tmp_path / "branches")
    assert verify(other.path).passed


def test_a_manifest_that_says_another_field_is_refused(several, tmp_path):
    artifact = export(several, out=tmp_path / "artifacts")
    for root, name, opener in ((several.path, "assembly.json", Model), (artifact.path, "manifest.json", Artifact)):
        for change, words in (
            (lambda m: m["tasks"][0].update(field="colour"), "colour.* there"),
            (lambda m: m["tasks"].reverse(), "it names the tasks lit, pets|describe"),
            (lambda m: m["tasks"][0].update(field="logits"), "the field 'logits' has a name that is taken"),
            (lambda m: m.update(open_set={"shape": {"threshold": 0.5}}), "describe the model beside it"),
            (
                lambda m: m.update(open_set={"colour": {"threshold": 0.5}}),
                "describe the model beside it|its open set is of the field 'colour', and it has none such",
            ),
            (
                lambda m: m.update(open_set={"threshold": 0.5}),
                "the threshold of its open set is None|describe|open_set",
            ),
        ):
            place = tmp_path / "copy"
            shutil.copytree(root, place)
            edit(place / name, change)
            with pytest.raises(PoolError, match=words):
                opener.open(place).check()
            shutil.rmtree(place)


def test_answers_are_given_field_by_field(several, photos, tmp_path, capsys):
    artifact = export(several, out=tmp_path)
    for model in (several.path, artifact.path):
        found = predict(model, [photos], top=2)
        assert [list(each.answers) for each in found] == [["shape", "class", ODD]] * 4
        answer = found[0].to_json()["answers"]["shape"]["classes"]
        assert [set(line) for line in answer] == [{"class", "probability"}] * 2
        assert found[0].classes == found[0].answers["shape"].classes
        assert sum(share for _, share in found[0].answers[ODD].classes) == pytest.approx(1, abs=1e-6)
    predict_command([photos], several.path, top=1, threads=1, json=False)
    line = capsys.readouterr().out.splitlines()[0]
    assert all(f"{field}: " in line for field in ("shape", "class", ODD))


def test_strangers_are_told_by_the_fields_that_leave_a_class_out(opened, fields, tmp_path, photos):
    opened.check()
    told = opened.open_set
    assert set(told) == {"shape", "class"}
    assert list(opened.thresholds) == ["shape", "logits"]  # in the graph's order, whatever a manifest's is
    assert [value.name for value in opened.load().graph.output] == ["shape", ODD, "logits", "shape.known", "known"]
    evidence = fields.evidence(opened.tasks)
    shape = np.array(evidence.labels["shape"])
    other = np.isin(shape, ["shape: square", "shape: heart", "shape: star"])  # what is not known is no stranger
    assert told["shape"]["other_images"] == other.sum()
    assert told["shape"]["known_images"] == np.isin(shape, ["shape: circle", "shape: ellipse"]).sum()
    assert (scores(evidence.logits[:, :2])[other] >= told["shape"]["threshold"]).mean() <= 0.2
    for precision in ("fp32", "fp16", "int8"):
        artifact = export(opened, precision=precision, out=tmp_path)
        artifact.check()
        assert set(artifact.manifest["outputs"]) == {ODD, "known", "logits", "shape", "shape.known"}
        assert verify(artifact.path).passed
    answers = predict(opened.path, [photos])[0].to_json()["answers"]
    assert ["known" in answers[field] for field in ("shape", "class", ODD)] == [True, True, False]


def test_an_open_set_of_fields_that_are_whole_is_refused(fields, tmp_path, capsys):
    with pytest.raises(
        TaskError, match="no class of shape, lit, at dusk/é is left out: each of these answers for every"
    ):
        assemble(fields, ["round", "edged", "lit"], tmp_path / "whole", open_set=0.05)
    with pytest.raises(TaskError, match="no class is left out"):
        assemble(fields, ["lit"], tmp_path / "one", open_set=0.05)
    assemble_command(
        ["round", "lit"], str(fields.path), tmp_path / "told", "auto", True, 0.2, force=False, wait=False
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "open set:   by shape, lets in" in said
    assert f"the mean over shape, {ODD}" in said


def test_answers_that_are_the_same_are_counted_by_field():
    tasks = (TaskSpec("a", ("x", "y"), field="f"), TaskSpec("b", ("z", "w"), field="g"))
    expected = np.array([[1, 0, 5, 0], [1, 0, 5, 0]], np.float32)
    found = np.array([[0, 1, 5, 0], [1, 0, 5, 0]], np.float32)
    assert judge(found, expected, tasks, 1.0).equal == 0.75
    with pytest.raises(ParityError, match="have shape"):
        judge(found[:, :3], expected, tasks, 1.0)


def test_a_device_takes_and_gives_back_a_field(fields, tmp_path, monkeypatch):
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))
    steps = (["sea horse", "pets"], ["sea horse", "pets", "round"], ALL, ["lit", "round", "pets"])
    rates = (None, None, None, 0.2)
    made = [
        assemble(fields, names, tmp_path / f"{i}" / "assembly", open_set=rate).path
        for i, (names, rate) in enumerate(zip(steps, rates, strict=True))
    ]
    assert [Model.open(path).manifest["schema"] for path in made] == [1, 2, 2, 2]
    device = shutil.copytree(made[0], tmp_path / "device" / "assembly")
    for old, new in itertools.pairwise(made):
        assert not diff(old, new).empty
        write_update(old, new, tmp_path / "update.kfu", force=True)
        applied = apply(tmp_path / "update.kfu", device, unsigned=True)
        assert applied.difference <= applied.tolerance
        assert (device / "model.onnx").read_bytes() == (new / "model.onnx").read_bytes()
        assert verify(device).passed
    assert [task.name for task in rollback(device).tasks] == [task.name for task in Model.open(made[2]).tasks]


def run(folder, *words):
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_the_kit_answers_every_field(opened, photos, tmp_path):
    folder = export(opened, kit=True, out=tmp_path / "artifacts").path
    checked = run(folder, "check.py")
    assert checked.stdout.startswith("right: differs by"), checked.stderr
    found = run(folder, "run.py", str(photos), "--top", "2")
    assert not found.returncode, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    for line, expected in zip(lines, predict(folder, [photos], top=2), strict=True):
        wanted = expected.to_json()
        assert line["image"] == wanted["image"]
        assert list(line["answers"]) == list(wanted["answers"])
        for field, answer in line["answers"].items():
            assert [c["class"] for c in answer["classes"]] == [c["class"] for c in wanted["answers"][field]["classes"]]
            assert answer.get("known") == pytest.approx(wanted["answers"][field].get("known"), abs=1e-4)
    golden = dict(np.load(folder / "golden.npz"))
    for column in (0, 2, golden["expected"].shape[1] - 1):  # a column of each field
        wrong = golden["expected"].copy()
        wrong[:, column] += 1
        np.savez(folder / "golden.npz", **golden | {"expected": wrong})
        assert "error: this model differs by 1.0e+00" in run(folder, "check.py").stderr
    edit(folder / "manifest.json", lambda m: m["tasks"][1].update(field="hue"))
    assert "error: the model has no output 'hue'" in run(folder, "run.py", str(photos)).stderr


def test_the_kit_measures_the_field_of_class_folders_and_latency_alone_of_others(fields, opened, tmp_path):
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(opened.evidence().images[i]).save(tmp_path / "data" / name / "0.png")
    words = ("bench.py", "--quick", "--scenario", "single-stream", "--json", str(tmp_path / "found.json"), "--data")
    folder = export(opened, kit=True, out=tmp_path / "artifacts").path
    done = run(folder, *words, str(tmp_path / "data"))
    assert not done.returncode, done.stderr
    assert "(of the field 'class' alone)" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert row["accuracy"] is None
    assert [(one["tasks"], one["images"]) for one in row["accuracies"]] == [(["pets"], 2)]
    other = export(assemble(fields, ["round"], tmp_path / "round"), kit=True, out=tmp_path / "artifacts").path
    done = run(other, *words, str(tmp_path / "data"))
    assert "accuracy: not measured, as folders tell the field 'class', and this model has: shape" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert (row["accuracy"], row["accuracies"]) == (None, [])
    assert row["latency_ms"]["p50"] > 0


def test_a_pool_of_the_field_class_alone_is_schema_1(tmp_path):
    pool = field_pool(tmp_path / "pool", tasks=[TaskSpec("pets", ("cat", "dog")), TaskSpec("b", ("uni",))])
    assert pool.manifest["schema"] == 1
    pool.prove()
    each = accuracies(pool.evidence(), pool.tasks)
    assert list(each) == ["class"]
    assert RECORD.is_dir()
