"""Pools of several fields: what schema 2 says, what it is refused for, and what edits make of it."""

import json
import shutil

import numpy as np
import pytest
from fields import TASKS, field_pool, seen_images
from pools import again, describe

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import PoolError, TaskError
from kfdeploy.files import load_tensors
from kfdeploy.manifest import stamp
from kfdeploy.pool.edit import merge, remove
from kfdeploy.pool.fields import TEMPLATE, as_second, label_columns, unlike_labels, upgraded
from kfdeploy.pool.manifest import grown, merged, own_arrays, part, without
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import accuracies, known_accuracy, subset_accuracy

LIT = "lit, at dusk/é"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return field_pool(tmp_path_factory.mktemp("fields") / "pool")


@pytest.fixture
def copied(made, tmp_path):
    """A copy, to be altered."""
    shutil.copytree(made.path, tmp_path / "pool")
    return tmp_path / "pool"


def altered(root, change):
    manifest = json.loads((root / "pool.json").read_text(encoding="utf-8"))
    change(manifest)
    (root / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_pool_of_several_fields_says_so(made):
    assert made.manifest["schema"] == 2
    assert [task.name for task in made.tasks] == ["round", "edged", "lit", "pets", "sea horse"]
    assert made.labels["shape"] == tuple(f"shape: {name}" for name in ("circle", "ellipse", "square", "heart", "star"))
    assert made.labels["class"] == ("cat", "dog", "sea horse")
    made.check()
    made.prove()
    evidence = made.evidence()
    assert set(evidence.labels) == {"shape", LIT, "class"}
    assert "" in evidence.labels["class"]


def test_the_lowest_schema_that_can_say_it_is_written(made, toy):
    assert stamp("pool", [task.to_json() for task in TASKS])["schema"] == 2
    assert stamp("pool", [task.to_json() for task in TASKS if task.field == "class"])["schema"] == 1
    assert stamp("evidence") == {"schema": 1, "kind": "evidence"}
    first = Pool.open(toy.pool).manifest
    second = upgraded(first)
    assert upgraded(second) is second
    assert first["schema"] == 1
    assert "fields" not in first
    assert second["fields"] == {"class": {"kind": "classes", "classes": first["classes"], "coupling": "joint"}}
    assert second["faces"] == {"z": {"channels": first["nets"]["d"]}}
    assert second["templates"]["task"] == {"file": TEMPLATE, "tap": "tap", "face": "z", "D": first["nets"]["D"]}
    assert {(e["kind"], e["field"], e["template"]) for e in second["tasks"]} == {("classes", "class", "task")}
    assert label_columns(second) == label_columns(first)


def test_a_pool_of_one_field_is_read_as_schema_2_too(pool):
    before = Pool.open(pool)
    numbers = subset_accuracy(before.evidence(), before.tasks)
    altered(pool, lambda m: m.update(upgraded(m)))
    after = Pool.open(pool)
    assert after.manifest["schema"] == 2
    assert subset_accuracy(after.evidence(), after.tasks) == numbers
    assert not unlike_labels(before.manifest, after.manifest)


def task(i, **more):
    return lambda m: m["tasks"][i].update(more)


def field(name, **more):
    return lambda m: m["fields"][name].update(more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=1), r"'tasks\[0\]\.field' is 'shape', and schema 1 has no fields"),
        (lambda m: m.update(schema=3), "has schema 3, and this version of kfdeploy reads schemas 1 to 2"),
        (lambda m: m.update(schema=True), "has schema True, and this version"),
        (lambda m: m.pop("fields"), "is incomplete: 'fields' is missing"),
        (lambda m: m.pop("faces"), "is incomplete: 'faces' is missing"),
        (lambda m: m.update(fields=[]), r"'fields' is \[\], and not a table"),
        (lambda m: m["fields"].pop("shape"), "has task 'round' of the field 'shape'"),
        (field("shape", kind="segmentation"), r"has the field 'shape' of kind 'segmentation' \(allowed: classes\)"),
        (field("shape", kind=7), "'fields.shape.kind' is 7, and not a text"),
        (field("shape", classes=[]), "'fields.shape.classes' is a list of 0"),
        (field("shape", classes=["circle"]), "with the class 'ellipse', which the field 'shape' lacks"),
        (field("class", classes=["cat", "cat", "dog", "sea horse"]), "the field 'class' has a class twice"),
        (field("class", coupling="none"), r"'fields.class.coupling' is 'none' \(allowed: joint, independent\)"),
        (lambda m: m["faces"].update({"z.map": {"channels": 8}}), "has the face 'z.map', and this version of kfdeploy"),
        (lambda m: m["faces"].clear(), "has no face 'z'"),
        (lambda m: m["faces"]["z"].update(channels=0), "'faces.z.channels' is 0"),
        (lambda m: m["templates"].update(maps=m["templates"]["task"]), "has the template 'maps', and this version of"),
        (
            lambda m: m["templates"]["task"].update(file="../x"),
            r"a template whose file is '\.\./x' \(allowed: task.onnx",
        ),
        (lambda m: m["templates"]["task"].update(face="z.map"), "a template whose face is 'z.map'"),
        (lambda m: m["templates"]["task"].update(D=1 << 40), "'templates.task.D' is 1099511627776"),
        (task(0, template="maps"), "has task 'round' of the template 'maps'"),
        (task(0, field="colour"), "has task 'round' of the field 'colour'"),
        (task(0, field=["shape"]), r"'tasks\[0\].field' is \['shape'\], and not a text"),
        (task(0, field="x" * 201), r"'tasks\[0\].field' is 'x+', and not a text|and not a text of 1 to 200"),
        (task(0, classes=["square"]), "task 'edged' and task 'round' both have the column 'shape: square'"),
        (task(0, classes=["wolf"]), "with the class 'wolf', which the field 'shape' lacks"),
        (task(0, kind="depth"), "has task 'round' of kind 'depth'"),
    ],
)
def test_what_is_wrong_with_schema_2_is_told_in_one_line(copied, change, message):
    altered(copied, change)
    with pytest.raises(PoolError, match=message) as caught:
        Pool.open(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["image", "logits", "known", "common/x", "head/", "bank/0", "task12/x", " a", "a\nb", "a\x1b"]
)
def test_a_field_cannot_have_a_name_that_is_taken_inside_a_graph(copied, name):
    def change(manifest):
        manifest["fields"][name] = manifest["fields"].pop("shape")
        for entry in manifest["tasks"]:
            if entry.get("field") == "shape":
                entry["field"] = name

    altered(copied, change)
    with pytest.raises(PoolError, match=r"the field .* has a name that"):
        Pool.open(copied)


def test_columns_of_two_fields_do_not_have_one_name(copied):
    def change(manifest):
        manifest["fields"]["class"]["classes"].append("shape: circle")
        manifest["tasks"][-1]["classes"] = ["shape: circle"]

    altered(copied, change)
    with pytest.raises(PoolError, match="task 'sea horse' and task 'round' both have the column 'shape: circle'"):
        Pool.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update({"validation.labels/shape": a["validation.labels/shape"] + 2}), "'validation.labels/shape' in"),
        (lambda a: a.update({"validation.labels/shape": a["validation.labels/shape"] - 1}), "goes from -2 to"),
        (lambda a: a.update({"validation.labels": a["validation.labels"][1:]}), r"has the shape"),
        (lambda a: a.update({"validation.labels": a["validation.labels"].astype(np.float32)}), "is of float32"),
    ],
)  # fmt: skip
def test_labels_are_held_to_their_fields(copied, change, message):
    name = "evidence/shared.safetensors"
    arrays = load_tensors(copied / name)
    change(arrays)
    again(copied / name, arrays)
    describe(copied, name)
    with pytest.raises(PoolError, match=message):
        Pool.open(copied).evidence()


def test_a_task_s_own_file_says_of_which_field_it_is(made):
    entry = made.entry(made.tasks[0])
    data = made.read(entry["file"])
    other = TaskSpec("round", ("circle", "ellipse"), field="outline")
    with pytest.raises(
        PoolError, match=r"is of the field 'shape', and 'here' names it as of task 'round' of the field 'out"
    ):
        own_arrays(data, other, entry["file"], "here")


def test_tasks_are_taken_out_and_put_together_again(made, tmp_path):
    shape = remove(made, ["lit", "pets", "sea horse"], tmp_path / "shape")
    rest = remove(made, ["round", "edged"], tmp_path / "rest")
    both = merge(rest, shape, tmp_path / "both")
    both.prove()
    assert both.manifest["fields"] == made.manifest["fields"]
    assert [task.name for task in both.tasks] == ["lit", "pets", "sea horse", "round", "edged"]
    wanted = accuracies(made.evidence(), made.tasks)
    assert accuracies(both.evidence(), both.tasks) == {field: wanted[field] for field in (LIT, "class", "shape")}
    with pytest.raises(TaskError, match="task 'round' is already there"):
        merge(shape, made, tmp_path / "again")


def test_pools_whose_labels_count_otherwise_are_not_merged(made, tmp_path):
    shape = remove(made, ["lit", "pets", "sea horse"], tmp_path / "shape")
    rest = remove(made, ["round", "edged"], tmp_path / "rest")
    altered(rest.path, lambda m: m["fields"]["shape"]["classes"].reverse())
    with pytest.raises(
        PoolError, match="differ in the classes that their validation labels of the field 'shape' count in"
    ):
        merge(rest.path, shape, tmp_path / "both")


def test_what_is_left_of_a_pool_s_manifest(made):
    manifest = made.manifest
    smaller = without(manifest, {"round", "edged"})
    assert smaller["fields"] == manifest["fields"]
    assert [entry["name"] for entry in smaller["tasks"]] == ["lit", "pets", "sea horse"]
    own = part(manifest, [made.entry(made.tasks[0])], {})
    assert own["fields"] == manifest["fields"]
    assert list(own["recipe"]["tasks"]) == ["round"]


def test_a_task_of_another_field_makes_a_pool_of_schema_2(toy):
    first = Pool.open(toy.pool).manifest
    entry = TaskSpec("lit", ("no", "yes"), field="lit").to_json() | {"file": "tasks/lit", "evidence": "evidence/lit"}
    block = {"task": "lit", "file": "evidence/added", "classes": ["no", "yes"]}
    out = grown(first, entry, block, {"task": "lit"}, first["files"], None)
    assert out["schema"] == 2
    assert "classes" not in out
    assert out["fields"]["lit"] == {"kind": "classes", "classes": ["no", "yes"], "coupling": "joint"}
    assert out["tasks"][-1]["template"] == "task"
    more = TaskSpec("dusk", ("dusk",), field="lit").to_json() | {"file": "tasks/dusk", "evidence": "evidence/dusk"}
    out = grown(out, more, block | {"task": "dusk", "classes": ["dusk"]}, {"task": "dusk"}, out["files"], 1.5)
    assert out["fields"]["lit"]["classes"] == ["no", "yes", "dusk"]
    assert out["temperatures"]["dusk"] == 1.5
    assert first["schema"] == 1
    # What came later is no label of the images that both share.
    assert not unlike_labels(first, out)
    own = TaskSpec("fish", ("fish",)).to_json() | {"file": "tasks/fish", "evidence": "evidence/fish"}
    fish = grown(first, own, {"task": "fish", "file": "x", "classes": ["fish"]}, {"task": "fish"}, first["files"], None)
    assert fish["schema"] == 1
    both, _ = merged(fish, out, ("a", "b"))
    assert both["fields"]["class"]["classes"] == [*first["classes"], "fish"]
    assert set(both["fields"]) == {"class", "lit"}


def test_images_that_came_with_a_task_count_for_its_field_alone(copied):
    """A block that one field's tasks have no logits for goes on counting for the others."""
    manifest = json.loads((copied / "pool.json").read_text(encoding="utf-8"))
    whole = Pool.open(copied)
    before = accuracies(whole.evidence(), whole.tasks)
    block = {"task": "lit", "file": "evidence/added.safetensors", "classes": ["no", "yes"], "without": ["pets"]}
    seen = len(seen_images(whole))
    arrays = {"validation.rows": np.arange(seen), f"validation.labels/{LIT}": np.zeros(seen, np.int64)}
    arrays |= {f"logits/{t.name}": np.zeros((seen, len(t.classes)), np.float32) for t in whole.tasks}
    from kfdeploy.files import save_tensors

    save_tensors(copied / block["file"], arrays, {"schema": 1, "kind": "evidence"})
    manifest["blocks"] = [block]
    (copied / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    describe(copied, block["file"])
    grown_pool = Pool.open(copied)
    after = accuracies(grown_pool.evidence(), grown_pool.tasks)
    assert after["class"] == before["class"]
    assert after["shape"] == before["shape"]
    assert after[LIT].images == before[LIT].images + seen
    assert known_accuracy(grown_pool.evidence(), grown_pool.tasks) is not None


def test_assemblies_and_artifacts_of_several_fields(made, tmp_path):
    model = assemble(made, ["pets", "edged", "lit"], tmp_path / "assembly")
    assert model.manifest["schema"] == 2
    assert model.parts.manifest["schema"] == 2
    told = model.manifest["accuracy"]
    assert told["validation"] == pytest.approx(np.mean([each["validation"] for each in told["fields"].values()]))
    artifact = export(model, "onnx", out=tmp_path / "artifacts")
    assert artifact.manifest["schema"] == 2
    one = assemble(made, ["pets", "sea horse"], tmp_path / "one")
    assert one.manifest["schema"] == 1
    assert "fields" not in one.manifest["accuracy"]
    for folder, name in ((model.path, "assembly.json"), (artifact.path, "manifest.json")):
        manifest = json.loads((folder / name).read_text(encoding="utf-8"))
        for change, message in (
            (lambda m: m.update(schema=1), r"'tasks\[0\].field' is '|'tasks\[1\].field' is '"),
            (lambda m: m["tasks"][-1].update(field="known"), "a name that is taken inside a graph"),
            (lambda m: m["tasks"].append(m["tasks"][-1] | {"name": "more"}), "both have the column"),
        ):
            wrong = json.loads(json.dumps(manifest))
            change(wrong)
            (folder / name).write_text(json.dumps(wrong), encoding="utf-8")
            with pytest.raises(PoolError, match=message):
                type(artifact).open(folder) if "model" in wrong else Model.open(folder)


def test_schema_2_of_what_is_like_schema_1(made):
    fields = {"class": {"kind": "classes", "classes": ["cat"], "coupling": "joint"}}
    manifest = {"schema": 1, "nets": {}, "tasks": [{"name": "cat", "classes": ["cat"], "kind": "classification"}]}
    out = as_second(manifest, fields)
    assert (out["schema"], out["fields"]) == (2, fields)
    assert manifest["schema"] == 1
