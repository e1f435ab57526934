import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hashes import RECORD
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from killed import tree
from pools import again, describe, retrain

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.swap import exclusive
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import diff, open_whole, write_update
from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import OutputError, ParityError, PoolError, UpdateError
from kfdeploy.files import load_tensors, save_tensors, sha256
from kfdeploy.pool.pool import Pool

TASKS = ["pets", "sea horse", "élan", "ünï/c"]


@pytest.fixture(autouse=True)
def no_keys(tmp_path, monkeypatch):
    """A device of its own for every test, not that of whoever runs them."""
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))


def make(pool, tasks, folder, fuse="auto"):
    """Assemble under the same folder name wherever it is."""
    return assemble(pool, tasks, folder / "assembly", fuse=fuse).path


@pytest.fixture
def pair(toy, tmp_path):
    """An assembly on a device, what it is to become, and the update."""
    old, new = make(toy.pool, ["pets", "élan"], tmp_path / "device"), make(toy.pool, TASKS[:3], tmp_path / "new")
    write_update(old, new, tmp_path / "update.kfu")
    return old, new, tmp_path / "update.kfu"


some = st.lists(st.sampled_from(TASKS), unique=True, min_size=1)
form = st.sampled_from(["bank", "branches"])


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(some, form, some, form)
@example(["pets"], "bank", ["pets"], "bank")
@example(["pets", "élan"], "bank", ["élan", "pets"], "bank")
def test_diff_then_apply_equals_assembling_afresh_byte_for_byte(toy, before, form_before, after, form_after):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        old, new = make(toy.pool, before, root / "old", form_before), make(toy.pool, after, root / "new", form_after)
        update, was = root / "update.kfu", tree(old)
        found = diff(old, new)
        assert set(found.added) == set(after) - set(before)
        assert set(found.removed) == set(before) - set(after)
        if found.empty:
            assert tree(old) == tree(new)
            with pytest.raises(UpdateError, match="there is nothing to ship"):
                write_update(old, new, update)
            return
        write_update(old, new, update)
        assert found.bytes == update.stat().st_size
        # No weights but those of tasks that are new there.
        shipped = {name for name in Update.read(update).payloads if name.startswith("parts/tasks/")}
        assert len(shipped) == len(set(after) - set(before))
        done = apply(update, old, unsigned=True)
        assert [task.name for task in done.model.tasks] == after
        assert done.before == tuple(before)
        fresh = make(toy.pool, after, root / "afresh", form_after)
        assert tree(old) == tree(fresh)
        done.model.check()
        rollback(old)
        assert tree(old) == was


def test_an_assembly_that_tells_strangers_is_updated_too(toy, tmp_path):
    old = assemble(toy.pool, ["pets"], tmp_path / "device" / "assembly", open_set=0.25).path
    new = assemble(toy.pool, ["pets", "élan"], tmp_path / "new" / "assembly", open_set=0.5).path
    write_update(old, new, tmp_path / "update.kfu")
    done = apply(tmp_path / "update.kfu", old, unsigned=True)
    assert done.model.manifest["open_set"]["false_accept"] == 0.5
    assert tree(old) == tree(new)


def test_one_more_task_ships_not_much_more_than_its_weights(toy, tmp_path):
    from kfdeploy.training.factorize import factorize
    from kfdeploy.training.recipe.recipe import load_recipe

    wide = ("channels = [8, 16], strides = [2, 1]", "channels = [32, 32, 32], strides = [2, 1, 1]")
    recipe = load_recipe(
        toy.write_recipe(
            tmp_path, wide, ("epochs = 4\nbatch = 16\nlr = 0.05\n\n[run]", "epochs = 1\nbatch = 16\nlr = 0.05\n\n[run]")
        )
    )
    factorize(recipe, tmp_path / "pool")
    old, new = (
        make(tmp_path / "pool", ["pets", "élan"], tmp_path / "a"),
        make(tmp_path / "pool", ["pets", "élan", "ünï/c"], tmp_path / "b"),
    )
    write_update(old, new, tmp_path / "update.kfu")
    weights = (new / "parts" / "tasks" / "%C3%BCn%C3%AF%2Fc.safetensors").stat().st_size
    assert weights > 80_000
    assert (tmp_path / "update.kfu").stat().st_size <= 1.1 * weights


def test_what_is_not_weights_takes_a_few_kilobytes(pair):
    _, new, update = pair
    weights = (new / "parts" / "tasks" / "sea%20horse.safetensors").stat().st_size
    assert update.stat().st_size - weights < 5000


def test_the_same_pair_gives_the_same_bytes(pair, tmp_path):
    old, new, update = pair
    write_update(old, new, tmp_path / "again.kfu")
    assert (tmp_path / "again.kfu").read_bytes() == update.read_bytes()
    with pytest.raises(OutputError, match="is already there"):
        write_update(old, new, update)
    write_update(old, new, update, force=True)


def test_applying_again_does_nothing_and_going_back_is_possible_once(pair):
    old, new, update = pair
    was = tree(old)
    done = apply(update, old, unsigned=True)
    assert not done.already
    assert (done.key, done.before) == (None, ("pets", "élan"))
    assert 0 <= done.difference <= done.tolerance
    assert apply(update, old, unsigned=True).already
    assert tree(old) == tree(new)
    assert [task.name for task in rollback(old).tasks] == ["pets", "élan"]
    assert tree(old) == was
    with pytest.raises(UpdateError, match="has nothing to go back to"):
        rollback(old)
    apply(update, old, unsigned=True)
    assert tree(old) == tree(new)


def test_going_back_mends_what_was_damaged_and_says_what_it_cannot(pair):
    old, _, update = pair
    was = tree(old)
    apply(update, old, unsigned=True)
    (old / "model.onnx").write_bytes(b"torn")
    rollback(old)
    assert tree(old) == was
    apply(update, old, unsigned=True)
    (old / ".previous" / "model.onnx").write_bytes(b"torn")
    with pytest.raises(PoolError, match="has 4 bytes"):
        rollback(old)
    with pytest.raises(PoolError, match="there is no assembly"):
        rollback(old.parent / "none")
    Model.open(old).check()


def test_a_student_and_a_stranger_are_no_assemblies(toy, pair, tmp_path):
    _, new, update = pair
    shutil.copytree(toy.students / "small", tmp_path / "small")
    with pytest.raises(UpdateError, match="is no assembly but a student"):
        apply(update, tmp_path / "small", unsigned=True)
    with pytest.raises(PoolError, match="is a student: it has no parts|is a student and"):
        diff(tmp_path / "small", new)
    with pytest.raises(PoolError, match="there is no assembly"):
        apply(update, tmp_path / "none", unsigned=True)


def test_an_assembly_of_another_version_is_not_shipped(pair, tmp_path, monkeypatch):
    """What this version would not compose on the device is refused where it is made."""
    from kfdeploy.graph import compose

    old, new, _ = pair
    monkeypatch.setattr(compose, "IR_VERSION", 9)
    with pytest.raises(UpdateError, match="composes another graph from the parts"):
        write_update(old, new, tmp_path / "u.kfu")
    assert not (tmp_path / "u.kfu").exists()


def test_a_device_with_an_assembly_of_0_1_0_takes_old_and_new_updates(here):
    """What 0.1.0 made goes on being composed as it did, and what is made now as it is now."""
    shutil.copytree(RECORD, here, dirs_exist_ok=True)
    before = sha256(Path("assembly/model.onnx"))
    assert not apply("update.kfu", "assembly", unsigned=True).already  # written by 0.1.0, for its own assembly
    rollback("assembly")
    assert sha256(Path("assembly/model.onnx")) == before
    new = assemble("pool", ["sea horse", "pets", "élan"], "new/assembly")
    write_update("assembly", new.path, "new.kfu")
    assert apply("new.kfu", "assembly", unsigned=True).model.tasks == new.tasks
    assert sha256(Path("assembly/model.onnx")) == sha256(new.graph)


def changed(update, **fields):
    """Write an update with entries of its manifest changed, unsigned."""
    found = Update.read(update)
    update.write_bytes(Update(update, found.manifest | fields, found.payloads).to_bytes())


def swapped(update, side, **fields):
    changed(update, **{side: Update.read(update).manifest[side] | fields})


def damage_payload(update):
    data = update.read_bytes()
    update.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def cut(count):
    return lambda update: update.write_bytes(update.read_bytes()[:count])


def wrong_files(update, **fields):
    manifest = Update.read(update).manifest
    entries = {name: entry | fields for name, entry in manifest["files"].items()}
    changed(update, files=entries)


def packed_too_large(update):
    found = Update.read(update)
    entries = {name: entry | {"unpacked": entry["unpacked"] - 7} for name, entry in found.manifest["files"].items()}
    changed(update, files=entries)


def one_too_many(update):
    found = Update.read(update)
    name, data = "parts/../../evil", b"evil"
    entry = {"bytes": 4, "sha256": hashlib.sha256(data).hexdigest(), "unpacked": 4}
    files = found.manifest["files"] | {name: entry}
    update.write_bytes(Update(update, found.manifest | {"files": files}, {**found.payloads, name: data}).to_bytes())


BAD = {
    "payload": (damage_payload, r"was altered: the sha256 of '.*' is"),
    "cut in the data": (cut(-5), "was cut short"),
    "cut in the header": (cut(100), "was cut short"),
    "empty": (cut(0), "was cut short: 0 bytes"),
    "no safetensors": (lambda update: update.write_text("hello, this is a letter"), "is not an update"),
    "other safetensors": (lambda update: save_tensors(update, {}, {"kind": "evidence"}), "is not an update"),
    "another kind": (lambda update: changed(update, kind="pool"), r"describes a 'pool' \(allowed: update\)"),
    "another schema": (lambda update: changed(update, schema=2), "has schema 2, and this version of kfdeploy reads"),
    "no base": (lambda update: changed(update, base=None), "is incomplete: 'base' lacks"),
    "no tasks": (lambda update: swapped(update, "new", tasks=[1]), "is incomplete: 'new' names no tasks"),
    "no files": (lambda update: changed(update, files=[]), "is incomplete: it has no 'files'"),
    "no length": (lambda update: wrong_files(update, bytes="1"), "is incomplete: it does not say how long"),
    "no hash": (lambda update: wrong_files(update, sha256=None), "is incomplete: it does not say what"),
    "no counter": (lambda update: changed(update, counter="1"), "is incomplete: its counter is not a number"),
    "a file missing": (lambda update: changed(update, files={}), "is not where its manifest says"),
    "unpacks to more": (packed_too_large, "does not unpack to"),
    "another file": (one_too_many, r"has a file that nothing asks for: 'parts/../../evil'"),
    "another base": (lambda update: swapped(update, "base", **{"model.onnx": "0", "tasks": ["cow", "hen"]}), "is for an assembly of cow, hen, and '.*' is one of pets, élan"),
    "another graph": (lambda update: swapped(update, "new", **{"model.onnx": "0"}), "this device composes another graph than"),
    "another manifest": (lambda update: swapped(update, "new", **{"assembly.json": "0"}), "does not hold the 'assembly.json' that it promises"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_updates_are_refused_and_nothing_is_left(pair, case):
    old, _, update = pair
    was, (spoil, message) = tree(old), BAD[case]
    spoil(update)
    with pytest.raises(UpdateError, match=message) as caught:
        apply(update, old, unsigned=True)
    assert caught.value.hint
    assert tree(old) == was
    assert {path.name for path in old.iterdir()} == {"model.onnx", "assembly.json", "parts"}
    assert not (update.parent / "evil").exists()
    Model.open(old).check()


def test_a_missing_update_and_an_assembly_of_another_pool(toy, pool, pair, tmp_path):
    _, _, update = pair
    with pytest.raises(UpdateError, match="there is no update at"):
        apply(tmp_path / "none.kfu", tmp_path / "device" / "assembly", unsigned=True)
    with pytest.raises(UpdateError, match="cannot be read"):
        apply(tmp_path, tmp_path / "device" / "assembly", unsigned=True)
    retrain(pool)
    other = make(pool, ["pets", "élan"], tmp_path / "other")
    with pytest.raises(UpdateError, match="is for an assembly of pets, élan of another pool or version, and"):
        apply(update, other, unsigned=True)


@pytest.mark.parametrize("name", ["model.onnx", "parts/common.onnx", "parts/tasks/pets.safetensors"])
def test_an_assembly_altered_on_the_device_is_refused(pair, name):
    old, _, update = pair
    data = (old / name).read_bytes()
    (old / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    was = tree(old)
    with pytest.raises(PoolError, match="was altered: its sha256"):
        apply(update, old, unsigned=True)
    assert tree(old) == was
    assert not list(old.glob(".*"))


def test_wrong_numbers_are_not_let_through(toy, pool, pair, tmp_path):
    """An update whose every hash is right, of a network that does not give the torch network's numbers."""
    old, new, update = pair
    parts, name = new / "parts", "evidence/sea%20horse.safetensors"
    golden = load_tensors(parts / name)
    golden["golden.logits"][0, 0] += 1
    again(parts / name, golden)
    describe(parts, name)
    write_update(old, new, update, force=True)
    was = tree(old)
    with pytest.raises(ParityError, match="was refused: the graph 'model.onnx' differs from the torch network by 1"):
        apply(update, old, unsigned=True)
    assert tree(old) == was
    assert not list(old.glob(".*"))


def test_a_pool_of_another_schema_in_an_update_is_refused(pair):
    old, new, update = pair
    manifest = json.loads((new / "parts" / "pool.json").read_text(encoding="utf-8"))
    data = json.dumps(manifest | {"schema": 7}).encode()
    found = Update.read(update)
    files = {name: found.file(name) for name in found.payloads} | {"parts/pool.json": data}
    target = found.manifest["new"] | {"parts/pool.json": hashlib.sha256(data).hexdigest()}
    update.write_bytes(Update.make(update, found.manifest["base"], target, files).to_bytes())
    with pytest.raises(PoolError, match="was refused: .* has schema 7"):
        apply(update, old, unsigned=True)
    assert not list(old.glob(".*"))


def test_applying_needs_no_torch(pair, tmp_path):
    old, new, update = pair
    code = (
        "import sys\n"
        "sys.argv = ['kfdeploy', 'apply', '--unsigned', *sys.argv[1:]]\n"
        "from kfdeploy.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'openvino', 'cryptography'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(update), str(old)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "signature:  not asked for" in done.stdout
    assert tree(old) == tree(new)


def test_an_interrupted_update_is_mended_by_the_next_one(pair):
    """As a device would be found after a power cut, just before and just after the commit; who reads writes nothing."""
    from kfdeploy.deploy import swap

    old, new, update = pair
    was, finish = tree(old), swap._finish

    class PowerCut(BaseException):
        pass

    def cut(*_, **__):
        raise PowerCut

    for mended in (was, tree(new)):
        with pytest.MonkeyPatch.context() as patch:
            if mended is was:
                patch.setattr(swap, "sha256", lambda _: "0")  # the commit has not happened
                patch.setattr(Path, "replace", cut)
            patch.setattr(swap, "_settle", lambda _: None)
            patch.setattr(swap, "_finish", cut)
            with pytest.raises(PowerCut):
                apply(update, old, unsigned=True)
        assert swap._finish is finish
        assert (old / ".update").is_dir()
        assert sha256(old / "model.onnx") in {sha256(folder / "model.onnx") for folder in (old, new)}
        left = sorted((path, path.stat().st_ino, path.stat().st_mtime_ns) for path in old.rglob("*"))
        if mended is was:
            Model.open(old).check()
            assert verify(old).passed
        else:
            for read in (Model.open, verify, open_whole):
                with pytest.raises(PoolError, match=r"an update of '.*' was interrupted") as caught:
                    read(old)
                assert caught.value.hint == (
                    f"finish it: kfdeploy apply <update> {old}, or go back: kfdeploy rollback {old}"
                )
        assert sorted((path, path.stat().st_ino, path.stat().st_mtime_ns) for path in old.rglob("*")) == left
        if mended is was:
            with exclusive(old):
                pass
        else:
            assert apply(update, old, unsigned=True).already
        Model.open(old).check()
        assert tree(old) == mended
        assert not (old / ".update").exists()
    assert [task.name for task in Pool.open(old / "parts").tasks] == TASKS[:3]
