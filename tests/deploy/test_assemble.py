import hashlib
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from hashes import RECORD
from pools import again
from runtimes import session

from kfdeploy.deploy.assemble import assemble, recompose
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import ComposeError, OutputError, ParityError, PoolError, TaskError
from kfdeploy.files import load_tensors, sha256
from kfdeploy.pool.pool import Pool
from kfdeploy.training.nets.factor import FactorNet


@pytest.fixture(scope="module")
def torch_logits(toy):
    """The torch network's own logits of every task, on images it has never seen."""
    pool = Pool.open(toy.pool)
    net = FactorNet(toy.recipe.ckn, toy.recipe.tsn, pool.image, pool.tasks)
    state = load_tensors(toy.pool / "train" / "state.safetensors")
    net.load_state_dict({k.removeprefix("net."): torch.from_numpy(v) for k, v in state.items() if k.startswith("net.")})
    images = np.random.default_rng(5).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(images)).logits.numpy()
    columns, start = {}, 0
    for task in pool.tasks:
        columns[task.name] = logits[:, start : start + len(task.classes)]
        start += len(task.classes)
    return images, columns


SUBSETS = [subset for n in (1, 2, 3, 4) for subset in itertools.combinations(range(4), n)]


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
def test_every_subset_gives_the_torch_networks_logits(toy, torch_logits, subset, tmp_path):
    images, columns = torch_logits
    names = [toy.tasks[i] for i in reversed(subset)]
    model = assemble(toy.pool, names, tmp_path / "a")
    expected = np.concatenate([columns[name] for name in names], axis=1)
    found = session(model.graph, 1).run(None, {"image": images})[0]
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert model.manifest["fuse"] == "bank"
    start = 0
    for name in names:
        width = columns[name].shape[1]
        own = session(assemble(toy.pool, [name], tmp_path / name.replace("/", "_")).graph, 1).run(
            None, {"image": images}
        )[0]
        scale = max(1, np.abs(own).max())
        assert np.abs(found[:, start : start + width] - own).max() <= 1e-5 * scale
        start += width


def test_bank_and_branches_agree(toy, torch_logits, tmp_path):
    images, _ = torch_logits
    both = [session(assemble(toy.pool, toy.tasks, tmp_path / fuse, fuse=fuse).graph, 1).run(None, {"image": images})[0]
            for fuse in ("bank", "branches")]  # fmt: skip
    assert np.abs(both[0] - both[1]).max() <= 1e-5 * max(1, np.abs(both[1]).max())


def test_an_assembly_is_what_the_design_says(toy, assembly):
    assert {path.name for path in assembly.path.iterdir()} == {"model.onnx", "assembly.json", "parts"}
    assert assembly.classes == ("sea horse", "cat", "dog")
    assert [task.name for task in Pool.open(assembly.path / "parts").tasks] == ["sea horse", "pets"]
    assembly.check()
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(assembly.graph).metadata_props}
    assert metadata["classes"] == ["sea horse", "cat", "dog"]
    assert metadata["kfdeploy"]["image"]["size"] == [8, 8]
    assert metadata["kfdeploy"]["pool"]["sha256"] == sha256(toy.pool / "pool.json")
    accuracy = assembly.manifest["accuracy"]
    assert accuracy["images"] == sum(
        label in assembly.classes for label in Pool.open(toy.pool).evidence().labels["class"]
    )
    assert not assembly.evidence().labels["class"]  # a device has no use for them
    again = assemble(assembly.path / "parts", ["pets"], toy.root / "again", force=True)
    assert again.classes == ("cat", "dog")


def test_assembling_twice_gives_the_same_bytes(toy, tmp_path):
    one, two = (assemble(toy.pool, ["élan", "pets"], tmp_path / name / "assembly") for name in "ab")
    assert one.graph.read_bytes() == two.graph.read_bytes()
    assert (one.path / "assembly.json").read_bytes() == (two.path / "assembly.json").read_bytes()


def test_bad_tasks_and_places_are_refused_and_leave_nothing(toy, tmp_path):
    out = tmp_path / "out"
    for names, message in ((["pest"], "task 'pest' is not in pool"), (["pets", "pets"], "is asked for twice")):
        with pytest.raises(TaskError, match=message):
            assemble(toy.pool, names, out)
    assert not list(tmp_path.iterdir())
    assemble(toy.pool, ["pets"], out)
    with pytest.raises(OutputError, match="is already there"):
        assemble(toy.pool, ["pets"], out)
    assert assemble(toy.pool, ["élan"], out, force=True).classes == ("élan",)
    with pytest.raises(PoolError, match="there is no pool at"):
        assemble(tmp_path / "none", ["pets"], tmp_path / "x")


def test_a_damaged_pool_leaves_nothing(pool, tmp_path):
    path = pool / "tasks" / "pets.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(PoolError, match="was altered"):
        assemble(pool, ["pets"], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool"]


def test_wrong_numbers_are_not_let_through(pool, tmp_path):
    """Evidence of another network: the golden samples catch it, though every hash is right."""
    from kfdeploy.manifest import describe_files

    name = "evidence/pets.safetensors"
    arrays = load_tensors(pool / name)
    arrays["golden.logits"][3, 0] += 0.01
    again(pool / name, arrays)
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"][name] = describe_files(pool, [pool / name])[name]
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ParityError, match=r"differs from the torch network by 0\.01"):
        assemble(pool, ["pets"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_template_that_cannot_be_banked_falls_back_to_branches(pool, tmp_path):
    """A residual from the shared tap is right in branches and refused in a bank."""
    from onnx import helper

    from kfdeploy.manifest import describe_files

    template = onnx.load(pool / "task.onnx")
    last = template.graph.node[-1]
    # A concatenation of one tensor changes nothing, and cannot be known to by its name.
    template.graph.node.insert(
        len(template.graph.node) - 1, helper.make_node("Concat", [last.input[0]], ["joined"], axis=1)
    )
    last.input[0] = "joined"
    (pool / "task.onnx").write_bytes(template.SerializeToString())
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"] |= describe_files(pool, [pool / "task.onnx"])
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert assemble(pool, ["pets", "élan"], tmp_path / "a").manifest["fuse"] == "branches"
    with pytest.raises(ComposeError, match="the operator Concat"):
        assemble(pool, ["pets", "élan"], tmp_path / "b", fuse="bank")


def test_assembling_needs_no_torch_and_little_memory(toy, tmp_path):
    code = (
        "import sys\n"
        "sys.argv = ['kfdeploy', 'assemble', '--tasks', 'pets', 'élan', '--pool', sys.argv[1], '--out', sys.argv[2]]\n"
        "from kfdeploy.cli import main; main_ok = True\n"
        "try: main()\n"
        "except SystemExit as e: main_ok = not e.code\n"
        "assert main_ok and 'torch' not in sys.modules and 'openvino' not in sys.modules\n"
        # ru_maxrss would count this test's own memory, from before the child became another program.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(toy.pool), str(tmp_path / "a")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 300_000  # kB
    assert "of these classes" in done.stdout


def test_models_that_are_not_whole_are_refused(assembly, tmp_path):
    shutil.copytree(assembly.path, tmp_path / "a")
    graph = tmp_path / "a" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(PoolError, match="was altered"):
        Model.open(tmp_path / "a").check()
    (tmp_path / "a" / "assembly.json").write_text('{"schema": 1, "kind": "assembly"}')
    with pytest.raises(PoolError, match="is incomplete"):
        Model.open(tmp_path / "a")
    with pytest.raises(PoolError, match="there is no assembly at"):
        Model.open(tmp_path / "b")


# The graphs that 0.1.0 made of its record, without their metadata.
FIRST = [
    ("bank", ["sea horse", "pets"], None, "62feb68f437fdd54d74048d685eaf7bf65e0dffaf5081f3e78b99f8e848d04b7"),
    ("branches", ["sea horse", "pets"], None, "112b68bded5ae236d77e2c4673c75dbfe1862f02982afaf6e8c59f273b972e45"),
    ("bank", ["pets", "élan"], 0.25, "9d65f92e7fff06fc043b9f88bdd823a638dac58bfa0f9147941639a7193a55b9"),
    ("bank", ["sea horse", "élan"], None, "a0a8269bc6a292f739e38b7f4a374591d0a90923c843f455a45a783b56186aa1"),
]


@pytest.mark.parametrize(("form", "tasks", "threshold", "wanted"), FIRST)
def test_what_0_1_0_composed_is_composed_to_the_byte(form, tasks, threshold, wanted):
    pool = Pool.open(RECORD / "pool")
    graph = pool.graph(pool.choose(tasks), form, threshold and {"logits": threshold}, first=True)
    assert hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest() == wanted


def test_a_graph_is_composed_again_as_either_version_made_it(toy, assembly, tmp_path):
    old = Model.open(RECORD / "assembly")
    for model in (old, assembly):
        assert recompose(model.parts, model.manifest, sha256(model.graph)) == model.graph.read_bytes()
    assert recompose(old.parts, old.manifest, "0" * 64) is None


def test_an_old_assembly_is_exported_in_todays_form(tmp_path):
    made = export(RECORD / "assembly", out=tmp_path)
    graph, old = onnx.load(made.path / "model.onnx"), onnx.load(RECORD / "assembly" / "model.onnx")
    assert (old.ir_version, old.opset_import[0].version) == (10, 18)
    assert (graph.ir_version, graph.opset_import[0].version) == (8, 17)
    assert {entry.key: entry.value for entry in graph.metadata_props} == {e.key: e.value for e in old.metadata_props}
    teacher = export(RECORD / "pool" / "train" / "teacher", out=tmp_path)  # it picked its columns behind its last layer
    operators = [node.op_type for node in onnx.load(teacher.path / "model.onnx").graph.node]
    assert not {"Gather", "ReduceMean"} & set(operators)
