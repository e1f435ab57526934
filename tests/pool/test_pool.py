import json

import numpy as np
import pytest

from kfdeploy.errors import PoolError, TaskError
from kfdeploy.files import load_tensors
from kfdeploy.graph.reference import tolerance
from kfdeploy.pool.edit import remove
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import TaskSpec, choose

TASKS = tuple(TaskSpec(name, (name,)) for name in ("cat", "dog", "sea horse", "a,b"))


def test_a_pool_has_what_the_design_says(toy):
    pool = Pool.open(toy.pool)
    assert [task.name for task in pool.tasks] == toy.tasks
    assert pool.tasks[0].classes == ("cat", "dog")
    assert {path.name for path in toy.pool.iterdir()} == {
        "pool.json",
        "common.onnx",
        "task.onnx",
        "tasks",
        "evidence",
        "calibration",
        "train",
    }
    assert {path.name for path in (toy.pool / "tasks").iterdir()} == {
        "pets.safetensors", "sea%20horse.safetensors", "%C3%A9lan.safetensors", "%C3%BCn%C3%AF%2Fc.safetensors",
    }  # fmt: skip
    pool.check()
    assert pool.manifest["teacher"]["accuracy"]["test"] > 0.3
    assert (
        (toy.pool / "train" / "log.csv").read_text().startswith("epoch,sup,kt,task,bottleneck,infomax,loss,validation")
    )
    head = load_tensors(toy.pool / "tasks" / "pets.safetensors")
    assert head["head.z"].shape == (2, 32)
    assert head["head.u"].shape == (2, 16)
    assert not any("running" in name for name in head)
    evidence = pool.evidence()
    assert evidence.logits.shape == (len(evidence.labels["class"]), 5)
    assert evidence.golden.shape == (16, 5)
    assert set(evidence.labels["class"]) == {"cat", "dog", "sea horse", "élan", "uni"}


def test_only_the_chosen_tasks_are_read(pool):
    for name in ("tasks/pets.safetensors", "evidence/pets.safetensors", "train/log.csv"):
        (pool / name).unlink()
    opened = Pool.open(pool)
    chosen = opened.choose(["élan", "sea horse"])
    assert [opened.part(task).name for task in chosen] == ["élan", "sea horse"]
    assert opened.evidence(chosen).logits.shape[1] == 2
    with pytest.raises(PoolError, match=r"pets\.safetensors' is missing"):
        opened.check()


@pytest.mark.parametrize("name", ["common.onnx", "task.onnx", "tasks/pets.safetensors", "evidence/shared.safetensors"])
def test_damage_is_found_whatever_it_is(pool, name):
    path = pool / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(PoolError, match=f"has {len(whole) - 1} bytes, its manifest says {len(whole)}"):
        Pool.open(pool).check()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PoolError, match="was altered"):
        Pool.open(pool).check()
    path.unlink()
    with pytest.raises(PoolError, match="is missing") as caught:
        Pool.open(pool).check()
    assert caught.value.hint


def change(pool, edit):
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    edit(manifest)
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_manifests_that_cannot_be_trusted_are_refused(pool):
    original = (pool / "pool.json").read_text(encoding="utf-8")
    for edit, message in (
        (lambda m: m.update(schema=7), "has schema 7"),
        (lambda m: m["tasks"][0].update(file="../../secret"), r"names a file outside it: '\.\./\.\./secret'"),
        (lambda m: m["files"].update({"/etc/passwd": {}}), "names a file outside it: '/etc/passwd'"),
        (lambda m: m.pop("image"), "is incomplete: 'image'"),
        (lambda m: m["tasks"][0].pop("classes"), "is incomplete: 'classes'"),
        (lambda m: m["nets"].pop("tap"), "is incomplete: 'tap' is missing .in 'nets'."),
    ):
        (pool / "pool.json").write_text(original, encoding="utf-8")
        change(pool, edit)
        with pytest.raises(PoolError, match=message):
            Pool.open(pool)


def test_tasks_are_chosen_in_order_by_name_or_list():
    for names in (["dog", "cat"], ["dog,cat"], ["dog, cat"]):
        assert [task.name for task in choose(TASKS, names, "pool")] == ["dog", "cat"]
    assert [task.name for task in choose(TASKS, ["sea horse", "a,b"], "pool")] == ["sea horse", "a,b"]


def test_tasks_that_cannot_be_chosen():
    with pytest.raises(
        TaskError, match=r"task 'dgo' is not in pool 'p' \(it has: cat, dog, sea horse, a,b\)"
    ) as caught:
        choose(TASKS, ["cat", "dgo"], "pool 'p'")
    assert caught.value.hint == "did you mean 'dog'?  --tasks cat dog"
    with pytest.raises(TaskError, match="task 'cat' is asked for twice"):
        choose(TASKS, ["cat", "dog", "cat"], "pool")
    with pytest.raises(TaskError, match="no task was named"):
        choose(TASKS, [","], "pool")


def test_of_ten_thousand_tasks_a_message_names_some():
    tasks = tuple(TaskSpec(f"t{i}", (f"t{i}",)) for i in range(10_000))
    with pytest.raises(TaskError) as caught:
        choose(tasks, ["t77x"], "pool")
    assert len(str(caught.value)) < 300
    assert "and 9,980 more" in str(caught.value)
    assert caught.value.hint.startswith("did you mean 't77")


def test_a_part_of_a_pool_holds_what_concerns_its_tasks(toy, tmp_path):
    pool = Pool.open(toy.pool)
    pool.write_part(pool.choose(["élan"]), tmp_path / "part")
    part = Pool.open(tmp_path / "part")
    assert list(part.manifest["recipe"]["tasks"]) == ["élan"]
    assert len(part.manifest["files"]) == 7
    assert part.seen().labels == pool.seen().labels


def test_tolerance_grows_with_the_logits():
    assert tolerance(np.array([0.5])) == 1e-4
    assert tolerance(np.array([-20.0, 3.0])) == pytest.approx(2e-3)


def test_a_pool_that_changes_while_it_is_read_is_told(pool):
    opened = Pool.open(pool)
    remove(pool, ["pets"])
    with pytest.raises(PoolError, match="was changed by another process while it was read") as caught:
        opened.read(next(entry["file"] for entry in opened.entries if entry["name"] == "pets"))
    assert caught.value.hint == "run it again"
