"""One more task for a pool: everything that was there stays as it is, to the byte."""

import copy
import shutil

import numpy as np
import pytest
from pools import logits_of
from runtimes import session

from kfdeploy.data.sources import load_split
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.calibrate import calibrate
from kfdeploy.errors import DataError, OutputError, TaskError
from kfdeploy.files import sha256
from kfdeploy.pool.plan import Subsets
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import class_names
from kfdeploy.tasks.worth import subset_accuracy
from kfdeploy.training.factorize import factorize
from kfdeploy.training.grow.add_task import add_task
from kfdeploy.training.recipe.recipe import parse_recipe

SHORT = ["train.epochs=3"]


def files(root):
    return {path.relative_to(root).as_posix(): sha256(path) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def grown(toy, tmp_path_factory):
    """The toy's pool with the class that its recipe ignores, as a task of its own."""
    place = tmp_path_factory.mktemp("grown") / "pool"
    before = files(toy.pool)
    fitted = add_task(toy.pool, "junk", data=toy.data, out=place, settings=SHORT)
    assert len(fitted.log) == 3
    assert files(toy.pool) == before
    return place


def test_everything_else_is_what_it_was(toy, grown):
    before, after = files(toy.pool), files(grown)
    assert {name for name, digest in before.items() if after.get(name) != digest} == {"pool.json"}
    new = {"tasks/junk.safetensors", "evidence/junk.safetensors", "evidence/added/junk.safetensors",
           "train/added-junk/log.csv", "train/added-junk/timing.csv", "train/added-junk/data.safetensors"}  # fmt: skip
    assert {name for name in set(after) - set(before) if not name.startswith("calibration/")} == new
    pool = Pool.open(grown)
    pool.check()
    assert [task.name for task in pool.tasks] == [*toy.tasks, "junk"]
    assert pool.manifest["added"][0]["training"]["epochs"] == 3
    assert not pool.manifest["added"][0]["teacher"]  # it was trained for the other classes


def test_it_assembles_with_the_old_ones(toy, grown, tmp_path):
    model = assemble(grown, ["junk", "pets"], tmp_path / "assembly")
    old = assemble(toy.pool, ["pets"], tmp_path / "old")
    images = np.random.default_rng(2).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    both = session(model.graph, 1).run(None, {"image": images})[0]
    alone = session(old.graph, 1).run(None, {"image": images})[0]
    assert np.abs(both[:, 1:] - alone).max() <= 1e-5 * max(1, np.abs(alone).max())
    model.check()
    assert model.manifest["accuracy"]["images"] > 0


def test_what_it_is_worth_is_known_exactly(toy, grown, tmp_path):
    """Logits on record are those of the graph, on the images the pool was made with and on the new ones."""
    from kfdeploy.data.splits import validation_set

    pool = Pool.open(grown)
    evidence = pool.evidence()
    rows = pool.seen().rows
    about = pool.recipe["data"]
    assert len(evidence.labels["class"]) > len(rows)
    assert set(evidence.labels["class"]) == {*class_names(Pool.open(toy.pool).tasks), "junk"}
    graph = assemble(grown, [task.name for task in pool.tasks], tmp_path / "all").graph
    images = [validation_set(about, block.seen, pool.image).load() for block in pool.blocks(pool.tasks)]
    found = session(graph, 1).run(None, {"image": np.concatenate(images)})[0]
    np.testing.assert_allclose(found, evidence.logits, atol=2e-4)
    names = class_names(pool.tasks)
    exact = subset_accuracy(evidence, pool.tasks)
    right = np.array(names)[found.argmax(1)] == np.array(evidence.labels["class"])
    assert exact.value == right.mean()
    assert Subsets.of(evidence, pool.tasks).accuracy(range(len(pool.tasks))) == exact.value


def test_int8_knows_its_ranges(grown, tmp_path):
    from kfdeploy.deploy.export import export

    made = export(assemble(grown, ["junk", "pets"], tmp_path / "a"), "onnx", precision="int8", out=tmp_path)
    assert made.manifest["verify"]["difference"] < 2


def test_a_second_task_sees_the_first_ones_images(grown, toy, tmp_path):
    """In place, with a teacher's help where it knows the class; a finer division of an old one."""
    place = tmp_path / "pool"
    shutil.copytree(grown, place)
    data = tmp_path / "data"
    for split in ("train", "test"):
        for number, name in enumerate(("tabby", "siamese")):
            (data / split / name).mkdir(parents=True)
            for image in sorted((toy.data / split / "cat").glob("*"))[number::2]:
                shutil.copy(image, data / split / name)
    before = files(place)
    add_task(place, "cats", data=data, instead_of=["cat"], settings=SHORT)
    after = files(place)
    assert {name for name in before if after.get(name) != before[name]} == {"pool.json"}
    pool = Pool.open(place)
    pool.check()
    assert pool.tasks[-1].classes == ("siamese", "tabby")
    pair = pool.evidence(pool.choose(["cats", "junk"]))
    assert set(pair.labels["class"]) >= {"tabby", "siamese", "junk"}
    assert assemble(place, ["cats", "junk"], tmp_path / "a").manifest["accuracy"]["images"] > 0


def test_independent_tasks_are_calibrated(toy, tmp_path):
    from kfdeploy.training.factorize import factorize
    from kfdeploy.training.recipe.recipe import apply_settings, parse_recipe

    fields = apply_settings(toy.recipe.model_dump(), ["objective.coupling=independent", "train.epochs=2"])
    factorize(parse_recipe(fields, "toy"), tmp_path / "pool")
    add_task(tmp_path / "pool", "junk", data=toy.data, settings=["train.epochs=2"])
    pool = Pool.open(tmp_path / "pool")
    assert set(pool.manifest["temperatures"]) == {*toy.tasks, "junk"}
    pool.check()


def test_the_pools_data_may_be_gone(toy, tmp_path, capsys, monkeypatch):
    """Then the new folder has to hold some of its classes; what is not known is said."""
    from kfdeploy.training.loop.progress import Progress

    notes = []

    class Listener(Progress):
        def note(self, text):
            notes.append(text)

    gone = f'data.root="{tmp_path / "nowhere"}"'
    place = tmp_path / "pool"
    shutil.copytree(toy.pool, place)
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))  # of a machine that never saw them
    only = tmp_path / "only"
    shutil.copytree(toy.data / "train" / "junk", only / "train" / "junk")
    with pytest.raises(DataError, match="there are no images of any class that the pool knows"):
        add_task(place, "junk", data=only, settings=[*SHORT, gone], report=Listener())
    assert not place.with_name("pool.partial").exists()
    assert any("are not there any more" in note for note in notes)
    shutil.copytree(toy.data / "train" / "cat", only / "train" / "cat")
    add_task(place, "junk", data=only, settings=[*SHORT, gone])
    pool = Pool.open(place)
    pool.check()
    evidence = pool.evidence(pool.choose(["pets", "junk"]))
    assert set(evidence.labels["class"]) == {"cat", "junk"}


def test_what_cannot_be_added(toy, tmp_path):
    for name, more, message in (
        ("pets", {}, "task 'pets' is already in pool"),
        (" ", {}, "the task has no name"),
        ("new", {"classes": ["cat"]}, "class 'cat' is task 'pets' of pool"),
        ("new", {"classes": ["junk", "junk"]}, "class 'junk' is named twice"),
        ("new", {"classes": ["fish"]}, "the data have no class 'fish'"),
        ("new", {"instead_of": ["cta"]}, "--instead-of names 'cta', which pool"),
    ):
        with pytest.raises((TaskError, DataError), match=message):
            add_task(toy.pool, name, data=toy.data, out=tmp_path / "out", **more)
    known = tmp_path / "known"
    shutil.copytree(toy.data / "train" / "cat", known / "train" / "cat")
    with pytest.raises(TaskError, match="every class in the data is one of pool"):
        add_task(toy.pool, "new", data=known, out=tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="already there"):
        add_task(toy.pool, "junk", data=toy.data, out=tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known", "taken"]


def test_the_frozen_gradient_stops_at_the_new_task(toy):
    """Only the task's own weights move, and a step in their direction lowers its terms."""
    import torch

    from kfdeploy.tasks.spec import TaskSpec
    from kfdeploy.training.learners.added import AddedTask, Frozen
    from kfdeploy.training.nets.factor import FactorNet

    pool = Pool.open(toy.pool)
    torch.manual_seed(0)
    net = FactorNet(toy.recipe.ckn, toy.recipe.tsn, pool.image, [TaskSpec("junk", ("junk",))])
    learner = AddedTask(net, Frozen(pool, 1), [0, 1, 2], toy.recipe.objective, seed=0)
    images = torch.randint(0, 256, (12, 8, 8, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3] * 3)
    terms = learner(images, labels, None, 0)
    assert set(terms) == {"sup", "task", "bottleneck"}
    trial = copy.deepcopy(learner)  # as the trial of precisions takes steps with a copy
    assert trial.frozen is learner.frozen
    assert trial.net is not learner.net
    whole = learner.evaluate(images)
    assert whole.shape == (12, 4)
    assert not any(name.startswith("net.ckn") for name, _ in learner.named_parameters())
    loss = terms["sup"].value
    loss.backward()
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    assert learner(images, labels, None, 0)["sup"].value < loss


def test_classes_and_pictures_added_to_the_pools_own_folder_change_nothing_on_record(toy, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy.data, data)
    fields = toy.recipe.model_dump()
    fields["data"] |= {"root": str(data), "names": {"dog": "hound"}}  # outputs have names of their own
    fields["tasks"]["pets"] = ["cat", "hound"]
    fields["train"]["epochs"] = fields["teacher"]["train"]["epochs"] = 1
    factorize(parse_recipe(fields, "toy"), tmp_path / "pool")
    for split in ("train", "test"):
        shutil.copytree(toy.data / split / "junk", data / split / "aaa")  # sorts before the others
    shutil.copy(next((data / "train" / "dog").iterdir()), data / "train" / "cat" / "000-another.png")
    before = Pool.open(tmp_path / "pool")
    images = load_split("folder", str(toy.data), "train", before.image).load(before.seen().rows)
    add_task(tmp_path / "pool", "aaa", data=data, settings=SHORT)
    after = Pool.open(tmp_path / "pool")
    assert [c for task in after.tasks for c in task.classes if c in ("hound", "dog")] == ["hound"]
    first = next(iter(after.blocks(after.tasks)))
    logits = logits_of(after, [task.name for task in after.tasks], images)
    assert max(np.abs(a - b).max() for a, b in zip(first.logits, logits, strict=True)) < 1e-3
    assert calibrate(tmp_path / "pool") == len(first.seen.rows)
