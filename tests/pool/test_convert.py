import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pools import again, describe, grow, rows_of

from kfdeploy.data.sources import load_split
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.errors import DataError, OutputError, PoolError, UnsupportedError
from kfdeploy.files import load_tensors
from kfdeploy.manifest import describe_files
from kfdeploy.pool.convert import store_half
from kfdeploy.pool.edit import faults, leftovers, merge, remove
from kfdeploy.pool.manifest import SHARED
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import golden_samples
from kfdeploy.tasks.worth import known_accuracy


@pytest.fixture(scope="module")
def half(toy, tmp_path_factory):
    return store_half(toy.pool, tmp_path_factory.mktemp("half") / "pool")


def test_half_the_bytes_and_what_is_known_is_of_the_rounded_weights(toy, half):
    whole, pool = Pool.open(toy.pool), half.pool
    assert not faults(pool)
    assert not leftovers(pool)
    assert half.bytes_after < 0.6 * half.bytes_before
    for task in pool.tasks:
        stored = pool.tensors(pool.entry(task)["file"])
        assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
        part, exact = pool.part(task), whole.part(task)
        assert {array.dtype for array in part.weights.values()} == {np.dtype(np.float32)}
        for name, array in part.weights.items():
            assert array == pytest.approx(exact.weights[name], rel=1e-3, abs=1e-6)
        assert pool.ranges(task) == whole.ranges(task)
    ours, theirs = pool.evidence(), whole.evidence()
    assert ours.labels == theirs.labels
    assert 0 < np.abs(ours.logits - theirs.logits).max() < 0.05
    assert half.before == known_accuracy(theirs, whole.tasks)
    assert half.after == known_accuracy(ours, pool.tasks)
    about = pool.manifest["converted"]
    assert about["from"] == whole.sha256
    assert about["accuracy"] == {"before": half.before.value, "after": half.after.value}


def test_a_half_pool_assembles_and_exports_in_every_form(toy, half, tmp_path):
    for form in ("bank", "branches"):
        model = assemble(half.pool, ["élan", "pets"], tmp_path / form, fuse=form)  # proved on its golden samples
        assert model.manifest["golden"]["difference"] < 1e-5
    from runtimes import session

    from kfdeploy.data.splits import validation_set

    evidence = half.pool.evidence(model.tasks)
    images = validation_set(half.pool.recipe["data"], half.pool.seen(), half.pool.image).load()
    assert session(model.graph, 1).run(None, {"image": images})[0] == pytest.approx(evidence.logits, abs=1e-5)
    artifact = export(model, "onnx", precision="int8", out=tmp_path)
    assert "int8" in artifact.manifest["executed"]["convolutions"]


def test_images_that_came_with_a_task_are_run_too(pool, tmp_path):
    rows = rows_of(Pool.open(pool), "junk")
    grow(pool, "fish", rows[:6])
    grow(pool, "eel", rows[6:], seed=2)
    whole, done = Pool.open(pool), store_half(pool, tmp_path / "half").pool
    for names in (["fish", "pets"], ["eel", "fish"]):
        ours, theirs = (which.evidence(which.choose(names)) for which in (done, whole))
        assert ours.labels == theirs.labels
        assert 0 < np.abs(ours.logits - theirs.logits).max() < 0.05
    assert not faults(done)


def test_a_merged_pool_may_be_half_in_part_and_is_converted_whole(pool, tmp_path):
    store_half(pool, tmp_path / "half")
    rest = remove(pool, ["pets"], tmp_path / "rest")
    pets = remove(tmp_path / "half", ["sea horse", "élan", "ünï/c"], tmp_path / "pets")
    merged = merge(rest, pets, tmp_path / "merged")
    assert [entry.get("weights") for entry in merged.manifest["tasks"]] == [None, None, None, "float16"]
    again = store_half(merged, tmp_path / "again").pool
    name = "tasks/pets.safetensors"
    assert (again.path / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    with pytest.raises(PoolError, match="are stored as float16 already"):
        store_half(again, tmp_path / "more")


def test_without_its_images_nothing_is_said_and_nothing_is_left(pool, tmp_path):
    with pytest.raises(DataError, match="validation images that .* was made with are needed") as caught:
        store_half(pool, tmp_path / "half", data=tmp_path / "nowhere")
    assert "--data <folder>" in caught.value.hint
    data = shutil.copytree(Pool.open(pool).recipe["data"]["root"], tmp_path / "data")
    for folder in sorted((data / "train").iterdir()):  # as many images, but others
        for path in folder.iterdir():
            shutil.copyfile(data / "test" / "cat" / "000.png", path)
    with pytest.raises(DataError, match="lacks 20 of the 20 validation images on record"):
        store_half(pool, tmp_path / "half", data=data)
    with pytest.raises(OutputError, match="is already there"):
        store_half(pool, pool)
    assert not (tmp_path / "half").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_other_images_under_a_pool_of_0_1_0_are_told_by_its_logits(pool, tmp_path):
    arrays = load_tensors(pool / SHARED)
    del arrays["validation.content"]
    again(pool / SHARED, arrays)
    describe(pool, SHARED)
    opened = Pool.open(pool)
    data = shutil.copytree(opened.recipe["data"]["root"], tmp_path / "data")
    store_half(pool, tmp_path / "whole", data=data)
    whole = load_split("folder", str(data), "train", opened.image)
    golden = set(golden_samples(arrays["validation.labels"]).tolist())
    other = next(i for i in range(len(arrays["validation.rows"])) if i not in golden)
    Image.new("RGB", (8, 8), (255, 0, 255)).save(whole.paths[arrays["validation.rows"][other]])
    with pytest.raises(DataError, match="are not those that .* was made with: on them the logits of '.*' differ by"):
        store_half(pool, tmp_path / "half", data=data)


def test_a_weight_beyond_float16_is_named(pool, tmp_path):
    path = pool / "tasks" / "pets.safetensors"
    arrays = load_tensors(path)
    arrays["head.bias"] = np.array([0, 7e4], np.float32)
    again(path, arrays)
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"] |= describe_files(pool, [path])
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        UnsupportedError, match=r"'head\.bias' of task 'pets' reaches 7e\+04, and float16 ends at 65504"
    ):
        store_half(pool, tmp_path / "half")
