import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kfdeploy.data.imageset import ImageSet
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError, UnsupportedError
from kfdeploy.graph.reference import run
from kfdeploy.measuring.factors.cka import cka_matrix, linear_cka
from kfdeploy.measuring.factors.features import COMMON, Beside, features, open_beside
from kfdeploy.measuring.factors.inspect import Disentangled, calibration, inspect
from kfdeploy.measuring.factors.probes import probe_matrix
from kfdeploy.pool.pool import Pool
from kfdeploy.report.factors import plot, sentences
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec, class_names, fields_of


def test_cka_sees_neither_rotations_nor_scales_and_tells_noise_apart():
    random = np.random.default_rng(0)
    a = random.normal(size=(500, 8))
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    assert linear_cka(a, 3 * a @ rotation + 5) == pytest.approx(1)
    assert linear_cka(a, random.normal(size=(500, 8))) < 0.05
    assert linear_cka(a, np.ones((500, 3))) == 0
    b = random.normal(size=(500, 5))
    centred = [x - x.mean(0) for x in (a, b)]
    grams = [x @ x.T for x in centred]  # the definition, by kernels
    exact = (grams[0] * grams[1]).sum() / np.sqrt((grams[0] ** 2).sum() * (grams[1] ** 2).sum())
    assert linear_cka(a, b) == pytest.approx(exact)
    assert np.allclose(cka_matrix([a, b]), [[1, exact], [exact, 1]])


def test_probes_read_what_features_hold_and_nothing_else():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 1000)
    owner = np.array([0, 0, 1, 2])
    sets = {"knows": np.eye(4)[labels] + 0.1 * random.normal(size=(1000, 4)), "noise": random.normal(size=(1000, 4))}
    found = probe_matrix(sets, labels, sets, labels, owner)
    assert found.shape == (2, 3)
    assert found[0].min() > 0.95
    assert found[1] == pytest.approx([1 / 3, 1 / 2, 1 / 2], abs=0.08)


def test_features_are_those_of_the_network(toy):
    """The pooled features, through the folded heads, are the pool's own logits."""
    from kfdeploy.training.experiment import Experiment

    pool = Pool.open(toy.pool)
    validation = Experiment(toy.recipe).validation
    found = features(pool, validation, batch=7)
    assert list(found) == [COMMON, *toy.tasks]
    logits = [
        found[COMMON] @ part.head_z.T + found[part.name] @ part.head_u.T + part.head_bias
        for part in map(pool.part, pool.tasks)
    ]
    assert np.allclose(np.concatenate(logits, 1), pool.evidence().logits, atol=1e-3)


def test_a_pool_is_inspected_whole(toy, tmp_path):
    found = inspect(toy.pool)
    json.dumps(found)
    assert np.array(found["cka"]).shape == (5, 5)
    assert np.array(found["probe"]).shape == (5, 4)
    assert found["images"] == {"validation": 20, "test": 30}
    assert found["calibration"]["subsets"] == 26  # every subset of five classes that has two or more
    text = "\n".join(sentences(found))
    for word in ("alike:", "knows:", "calibration:", "information:", "nats"):
        assert word in text
    plot(found, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_other_images_can_be_given_and_missing_ones_are_named(toy, tmp_path):
    assert inspect(toy.pool, data=toy.data, subsets=3)["calibration"]["subsets"] == 3
    with pytest.raises(DataError, match="there is no folder"):
        inspect(toy.pool, data=tmp_path)


def test_probes_are_of_each_task_s_own_field_and_leave_out_what_is_not_known():
    """Two fields: one split into tasks, which have an "other", and one whole; a third of the labels is not known."""
    random = np.random.default_rng(0)
    owner, fields = np.array([0, 0, 1, 2, 2]), [0, 0, 1]
    labels = np.stack([random.integers(0, 3, 900), random.integers(3, 5, 900)], 1)
    sets = {"first": np.eye(3)[labels[:, 0]], "second": np.eye(5)[labels[:, 1]]}
    gaps = np.where(random.random(labels.shape) < 1 / 3, -1, labels)
    found = probe_matrix(sets, gaps, sets, gaps, owner, fields)
    assert found == pytest.approx(np.array([[1, 1, 1 / 2], [1 / 3, 1 / 2, 1]]), abs=0.08)
    assert found[0, :2].tolist() == [1, 1]
    none = gaps.copy()
    none[:, 1] = -1
    for here, there in ((none, gaps), (gaps, none)):
        found = probe_matrix(sets, here, sets, there, owner, fields)
        assert np.isnan(found).tolist() == [[False, False, True]] * 2


TASKS = (
    TaskSpec("round", ("circle", "ellipse"), field="shape"),
    TaskSpec("edged", ("square",), field="shape"),
    TaskSpec("size", ("small", "large"), field="size"),
)


def made_set(count, seed):
    """Return images whose labels are random, some of them not known."""
    random = np.random.default_rng(seed)
    labels = np.stack([random.integers(0, 3, count), random.integers(3, 5, count)], 1)
    labels[random.random(labels.shape) < 0.1] = -1
    labels = labels[(labels >= 0).any(1)]
    names = class_names(TASKS)
    fields = tuple(name.partition(":")[0] for name in names)
    return ImageSet(names, labels, np.arange(len(labels)), None, fields=fields)


def made_features(_pool, images):
    """Return features that know one field each, and a common network's that know both."""
    random = np.random.default_rng(len(images))
    hot = np.eye(6)[images.labels][:, :, :5]  # -1 is a column of its own, which is left out
    own = {"round": hot[:, 0], "edged": hot[:, 0, :2], "size": hot[:, 1]}
    sets = {COMMON: hot.sum(1), **own}
    return {name: values + 0.05 * random.normal(size=values.shape) for name, values in sets.items()}


@pytest.fixture
def several(monkeypatch):
    """A pool of several fields, which is all that `inspect` asks of one."""
    held = made_set(120, 1)
    random = np.random.default_rng(3)
    logits = np.concatenate(
        [np.eye(6)[held.labels_of(field)][:, columns] for field, columns in fields_of(TASKS).items()], 1
    )
    evidence = Evidence(
        np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 5), np.float32),
        {field: held.texts_of(field) for field in held.field_names}, held.rows,
        (4 * logits + random.normal(size=logits.shape)).astype(np.float32),
    )  # fmt: skip
    pool = SimpleNamespace(
        tasks=TASKS, classes=class_names(TASKS), where="made", name="made", coupling="joint", data={}, image=None,
        training={"terms": {}}, seen=lambda: None, evidence=lambda: evidence,
    )  # fmt: skip
    place = "kfdeploy.measuring.factors.inspect"
    monkeypatch.setattr(f"{place}.Pool.open", lambda _path: pool)
    monkeypatch.setattr(f"{place}.validation_set", lambda *_: held)
    monkeypatch.setattr(f"{place}.load", lambda *_: made_set(300, 2))
    monkeypatch.setattr(f"{place}.features", made_features)
    return pool


def test_a_pool_of_several_fields_is_inspected_field_by_field(several, tmp_path):
    found = inspect("made", disentanglement=Disentangled(("each", "common")), note=lambda _: pytest.fail("no gbt"))
    json.dumps(found, allow_nan=False)
    assert found["fields"] == {"shape": ["round", "edged"], "size": ["size"]}
    probe = np.array(found["probe"])
    assert found["factors"] == [COMMON, "round", "edged", "size"]
    assert probe[0].min() > 0.95
    assert probe[1, :2].min() > 0.95 > 0.65 > probe[1, 2]
    assert probe[3, 2] > 0.95 > 0.65 > probe[3, :2].max()
    assert found["calibration"]["subsets"] == 4 + 1  # of three shapes, and of two sizes
    assert set(found["calibration"]["fields"]) == {"shape", "size"}
    rows = found["disentanglement"]
    assert [(row["codes"], row["D"], row["factors"]) for row in rows] == [
        ("each", 3, ["shape", "size"]), ("common", 5, ["shape", "size"])]  # fmt: skip
    assert rows[0]["informativeness"] > 0.7
    text = "\n".join(sentences(found))
    assert "within 2 fields" in text
    assert "apart:       each, 3 codes on" in text
    plot(found, tmp_path / "heat.png")


def test_a_field_that_does_not_vary_is_refused_by_name_before_anything_is_run(several, monkeypatch):
    dull = made_set(300, 2)
    dull.labels[:, 1] = 4
    monkeypatch.setattr("kfdeploy.measuring.factors.inspect.load", lambda *_: dull)
    monkeypatch.setattr("kfdeploy.measuring.factors.inspect.features", lambda *_: pytest.fail("it is run"))
    with pytest.raises(DataError, match="the factor 'size' has one value on all"):
        inspect("made", disentanglement=Disentangled())


def test_disentanglement_of_one_field_is_refused_in_words(toy):
    with pytest.raises(
        UnsupportedError, match="has the one field 'class', and disentanglement is of two factors"
    ) as told:
        inspect(toy.pool, disentanglement=Disentangled())
    assert "leave --disentanglement out" in told.value.hint
    for wrong, said in ((Disentangled(("all",)), "no codes 'all'"), (Disentangled(trees="oak"), "no trees 'oak'")):
        with pytest.raises(UnsupportedError, match=said):
            inspect(toy.pool, disentanglement=wrong)


def test_a_field_without_two_classes_or_images_has_no_calibration():
    tasks = (TaskSpec("a", ("a",), field="one"), TaskSpec("b", ("b", "c"), field="two"))
    logits = np.zeros((2, 3), np.float32)
    evidence = Evidence(np.zeros((0, 1, 1, 1), np.uint8), logits[:0], {"one": ("one: a",) * 2, "two": ("", "")},
                        np.arange(2), logits)  # fmt: skip
    found = calibration(evidence, tasks, 10)
    assert (found["subsets"], found["error"], found["largest_error"]) == (0, None, None)
    assert found["fields"]["two"]["subsets"] == 0


def test_models_beside_are_read_at_their_last_linear_layer(toy):
    pool = Pool.open(toy.pool)
    found = inspect(pool, beside=[toy.students / "small", toy.pool / "train" / "teacher"])
    assert found["factors"] == [COMMON, *toy.tasks, "student small", "teacher"]
    assert found["beside"] == ["student small", "teacher"]
    assert np.array(found["cka"]).shape == (7, 7)
    assert np.array(found["probe"]).shape == (7, 4)
    assert "with teacher; a probe reads" in "\n".join(sentences(found))
    # Through the head, the features are the model's logits.
    from kfdeploy.data.splits import load

    images = load(pool.data, "test", pool.image)
    beside = Beside.open(toy.students / "small", pool)
    (values,) = beside.features(images, batch=7)
    graph = Model.open(toy.students / "small").load()
    from onnx import numpy_helper

    weights = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    last = graph.graph.node[-1]
    W, b = (weights[name] for name in last.input[1:])
    logits = run(graph, images.load())["logits"]
    assert np.allclose(values @ (W.T if W.shape[0] == len(b) else W) + b, logits, atol=1e-4)


def test_models_that_do_not_compare_are_refused(toy, assembly, tmp_path):
    pool, small = Pool.open(toy.pool), toy.students / "small"
    with pytest.raises(UnsupportedError, match="is an assembly: its networks are the pool's"):
        open_beside([assembly.path], pool)
    with pytest.raises(UnsupportedError, match="is called 'student small', and so is another network"):
        open_beside([small, small], pool)
    other = shutil.copytree(small, tmp_path / "other")
    about = json.loads((other / "assembly.json").read_text(encoding="utf-8"))
    about["image"]["resize"] = 16
    (other / "assembly.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(
        UnsupportedError, match="or they are resized otherwise: features of other images do not compare"
    ):
        open_beside([other], pool)
