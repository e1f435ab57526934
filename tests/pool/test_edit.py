import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pools import grow, grown_apart, images_of, logits_of, rows_of

from kfdeploy.deploy.assemble import assemble
from kfdeploy.errors import OutputError, PoolError, TaskError
from kfdeploy.pool.edit import faults, leftovers, merge, remove
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.worth import known_accuracy, require_known


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def change(root, edit):
    manifest = json.loads((root / "pool.json").read_text(encoding="utf-8"))
    edit(manifest)
    (root / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")


def names(pool):
    return [task.name for task in pool.tasks]


@pytest.fixture
def grown(pool):
    """The toy pool with two tasks added, one after the other."""
    junk = rows_of(Pool.open(pool), "junk")
    grow(pool, "fish", junk[:6])
    grow(pool, "eel", junk[6:], seed=2)
    return pool


def test_a_task_goes_and_the_others_stay_byte_for_byte(pool, tmp_path):
    before, opened = contents(pool), Pool.open(pool)
    rest = opened.choose(["pets", "ünï/c"])
    evidence = opened.evidence(rest)
    done = remove(pool, ["sea horse", "élan"])
    after = contents(pool)
    assert names(done) == ["pets", "ünï/c"]
    assert all(before[name] == data for name, data in after.items() if name != "pool.json")
    assert not [name for name in after if "horse" in name or "lan" in name or name.startswith("train/")]
    done.check()
    assert not faults(done)
    assert not leftovers(done)
    same = done.evidence()
    assert same.labels == evidence.labels
    assert np.array_equal(same.logits, evidence.logits)
    assert done.ranges(done.tasks[0])
    first = assemble(done, ["ünï/c", "pets"], tmp_path / "a")
    shutil.rmtree(pool)
    assert first.manifest["accuracy"]["images"] > 0


def test_with_out_the_pool_itself_stays_as_it_is(pool, tmp_path):
    before = contents(pool)
    done = remove(pool, ["pets"], tmp_path / "small")
    assert contents(pool) == before
    assert (names(done), done.path) == (["sea horse", "élan", "ünï/c"], tmp_path / "small")
    with pytest.raises(OutputError, match="is already there"):
        remove(pool, ["pets"], tmp_path / "small")
    assert names(remove(pool, ["élan"], tmp_path / "small", force=True)) == ["pets", "sea horse", "ünï/c"]


def test_what_cannot_be_removed_is_refused_and_nothing_changes(pool, tmp_path):
    assembly = assemble(pool, ["pets", "élan"], tmp_path / "assembly")
    before = contents(pool)
    with pytest.raises(TaskError, match="without pets, sea horse, élan, ünï/c there is no task left"):
        remove(pool, ["pets", "sea horse", "élan", "ünï/c"])
    with pytest.raises(TaskError, match="task 'dog' is not in pool"):
        remove(pool, ["dog"])
    with pytest.raises(PoolError, match="is part of the assembly") as caught:
        remove(assembly.path / "parts", ["pets"])
    assert "kfdeploy assemble --tasks" in caught.value.hint
    assert contents(pool) == before
    (pool / "task.onnx").write_bytes(b"x")
    with pytest.raises(PoolError, match=r"task\.onnx' has 1 bytes"):
        remove(pool, ["pets"])
    assert "tasks/pets.safetensors" in contents(pool)


KILLED = """
    import os, shutil, sys
    from pathlib import Path
    from kfdeploy.pool.edit import merge, remove
    from kfdeploy.pool.pool import Pool

    source, work, verb = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "shutil.rmtree"}

    def act():
        if verb == "remove":
            remove(work / "pool", ["pets", "fish"])
        else:
            merge(work / "a", work / "b", work / "pool")

    if verb == "merge":
        remove(source, ["pets"], work / "a")
        remove(source, [t.name for t in Pool.open(source).tasks if t.name != "pets"], work / "b")
    point = found = 0
    while True:
        shutil.rmtree(work / "pool", ignore_errors=True)
        if verb == "remove":
            shutil.copytree(source, work / "pool")
        child = os.fork()
        if not child:
            count = 0
            def hook(event, arguments):
                global count
                if event in EVENTS and not (event == "open" and not (isinstance(arguments[2], int) and arguments[2] & 3)):
                    count += 1
                    if count > point:
                        os._exit(9)
            sys.addaudithook(hook)
            act()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if (work / "pool").exists():
            pool = Pool.open(work / "pool")
            pool.check()
            print(point, len(pool.tasks))
        else:
            print(point, 0)
        if status == 0:
            break
        assert status == 9, status
        point += 1
"""


@pytest.mark.parametrize(("verb", "allowed"), [("remove", {"6", "4"}), ("merge", {"0", "6"})])
def test_killed_at_any_file_operation_a_pool_is_whole_or_absent(grown, tmp_path, verb, allowed):
    work = tmp_path / "work"
    work.mkdir()
    code = textwrap.dedent(KILLED)
    done = subprocess.run([sys.executable, "-c", code, str(grown), str(work), verb], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(seen) > 8
    assert set(seen) == allowed
    assert seen == sorted(seen, reverse=verb == "remove")
    assert not (work / "pool.partial").exists()


def test_what_is_wrong_is_named_all_of_it(pool):
    assert not faults(Pool.open(pool))
    (pool / "common.onnx").unlink()
    (pool / "tasks" / "pets.safetensors").write_bytes(b"x")
    (pool / "tasks" / "stray").touch()
    change(pool, lambda m: m["tasks"].append(dict(m["tasks"][1])))
    change(pool, lambda m: m["files"].pop("evidence/pets.safetensors"))
    found = faults(Pool.open(pool))
    assert len(found) == 4
    for what in ("task 'sea horse' is there twice", "common.onnx' is missing", "has 1 bytes", "is not among the files"):
        assert any(what in fault for fault in found)
    assert leftovers(Pool.open(pool)) == ["evidence/pets.safetensors", "tasks/stray"]


def test_two_pools_on_one_network_become_one(grown, tmp_path):
    whole = Pool.open(grown)
    old = remove(grown, ["fish", "eel"], tmp_path / "old")
    new = remove(grown, ["pets", "sea horse", "élan", "ünï/c"], tmp_path / "new")
    done = merge(old, new, tmp_path / "merged")
    assert names(done) == [*names(old), "fish", "eel"]
    assert not faults(done)
    assert not leftovers(done)
    before, after = contents(grown), contents(tmp_path / "merged")
    assert all(before[name] == data for name, data in after.items() if name != "pool.json")
    for some in (["pets", "élan"], ["fish", "eel"]):
        chosen = whole.choose(some)
        assert known_accuracy(done.evidence(chosen), chosen) == known_accuracy(whole.evidence(chosen), chosen)
    first, second = (assemble(pool, ["eel", "pets", "fish"], tmp_path / n) for n, pool in (("x", whole), ("y", done)))
    arrays = [model.evidence().golden for model in (first, second)]
    assert np.array_equal(*arrays)
    with pytest.raises(OutputError, match="is already there"):
        merge(old, new, tmp_path / "merged")


def test_what_was_added_apart_is_not_known_together(pool, tmp_path):
    merged = grown_apart(pool, tmp_path)
    chosen = merged.choose(["fish", "pets"])
    assert known_accuracy(merged.evidence(chosen), chosen) == known_accuracy(Pool.open(pool).evidence(chosen), chosen)
    together = merged.choose(["fish", "eel", "pets"])
    assert known_accuracy(merged.evidence(together), together) is None
    with pytest.raises(
        PoolError, match=r"fish, eel, pets are worth together cannot be known: .* on images of fish, eel"
    ):
        require_known(merged.evidence(together), together, "merged")
    model = assemble(merged, ["fish", "eel", "pets"], tmp_path / "assembly")
    assert model.manifest["accuracy"] == {"validation": None, "images": 0}


def test_a_name_that_comes_back_is_not_taken_for_the_one_that_went(grown, tmp_path):
    """`eel` has logits for the images of the first `fish`, and there is a second."""
    remove(grown, ["fish"])
    assert [block["task"] for block in Pool.open(grown).manifest["blocks"]] == ["eel"]
    rows = rows_of(Pool.open(grown), "junk")
    grow(grown, "fish", rows[2:9], seed=5)
    pool = Pool.open(grown)
    chosen = pool.choose(["fish", "eel"])
    evidence = pool.evidence(chosen)
    assert evidence.labels["class"].count("fish") == 7
    for label in ("fish", "eel"):
        at = [i for i, name in enumerate(evidence.labels["class"]) if name == label]
        ran = np.concatenate(logits_of(pool, ["fish", "eel"], images_of(pool, evidence.rows[at])), axis=1)
        assert evidence.logits[at] == pytest.approx(ran, abs=1e-5)


def test_pools_that_do_not_go_together_are_refused_by_what_differs(pool, tmp_path):
    other = remove(pool, ["pets", "sea horse"], tmp_path / "other").path
    rest = remove(pool, ["élan", "ünï/c"], tmp_path / "rest").path
    with pytest.raises(TaskError, match="task 'élan' is already there: .* have 2 tasks in common") as caught:
        merge(pool, other, tmp_path / "merged")
    assert "kfdeploy pool remove" in caught.value.hint
    original = (other / "pool.json").read_text(encoding="utf-8")
    strange = {"bytes": 1, "sha256": "0" * 64}
    for edit, message in (
        (lambda m: m.update(coupling="independent"), "differ in coupling"),
        (lambda m: m["image"].update(resize=9), r"differ in image\.resize"),
        (lambda m: m["files"].update({"common.onnx": strange}), r"differ in the common network \(common\.onnx\)"),
        (lambda m: m["files"].update({"task.onnx": strange}), "differ in the template of a task's network"),
        (lambda m: m["files"].update({"evidence/shared.safetensors": strange}), "differ in the golden and validation"),
        (lambda m: m["classes"].reverse(), "differ in the classes that their validation labels count in"),
        (lambda m: m.update(schema=3), "has schema 3"),
    ):
        (other / "pool.json").write_text(original, encoding="utf-8")
        change(other, edit)
        with pytest.raises(PoolError, match=message):
            merge(rest, other, tmp_path / "merged")
    (other / "pool.json").write_text(original, encoding="utf-8")
    change(other, lambda m: m["tasks"][0].update(classes=["cat"]))
    with pytest.raises(TaskError, match=r"the class 'cat' is in task 'pets' of .* and in task 'élan' of"):
        merge(rest, other, tmp_path / "merged")
    (other / "pool.json").write_text(original, encoding="utf-8")
    (other / "tasks" / "%C3%A9lan.safetensors").write_bytes(b"x")
    with pytest.raises(PoolError, match="has 1 bytes"):
        merge(rest, other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_ranges_are_dropped_where_one_of_two_has_none(pool, tmp_path):
    other = remove(pool, ["pets", "sea horse"], tmp_path / "other").path
    rest = remove(pool, ["élan", "ünï/c"], tmp_path / "rest").path
    assert merge(rest, other, tmp_path / "both").manifest["calibration"]

    def forget(manifest):
        for entry in (manifest, *manifest["tasks"]):
            del entry["calibration"]

    change(other, forget)
    done = merge(rest, other, tmp_path / "merged")
    assert "calibration" not in done.manifest
    assert not faults(done)
    with pytest.raises(PoolError, match="has no ranges of activations"):
        done.ranges()


def test_only_what_the_manifest_names_is_deleted_and_through_no_link(pool, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("important")
    (pool / "link").symlink_to(precious)
    (pool / "train" / "mine.txt").write_text("mine")
    (pool / "tasks" / "mine.txt").write_text("mine")
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"]["link/notes.txt"] = {"bytes": 1, "sha256": "0" * 64}
    gone = next(entry for entry in manifest["tasks"] if entry["name"] == "pets")
    gone["calibration"] = "link/notes.txt"
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    named = [name for name in manifest["files"] if name.startswith("train/")]
    left = remove(pool, ["pets"])
    assert (precious / "notes.txt").read_text() == "important"
    assert [path.name for path in (pool / "train").rglob("*")] == ["mine.txt"]
    assert (pool / "tasks" / "mine.txt").is_file()
    assert not (pool / gone["file"]).exists()
    assert named
    assert {"link", "train/mine.txt", "tasks/mine.txt"} <= set(leftovers(left))
