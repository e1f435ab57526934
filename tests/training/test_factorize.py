import json
import os
import signal

import numpy as np
import pytest
import torch

from kfdeploy.deploy.model import Model
from kfdeploy.errors import Interrupted, OutputError, RecipeError, TeacherError, TrainingError
from kfdeploy.files import CHECKPOINTS, load_tensors
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.worth import subset_accuracy
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.factorize import factorize
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.progress import Progress
from kfdeploy.training.loop.replay import Live
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.recipe.recipe import apply_settings, load_recipe, parse_recipe

SHORT = ("epochs = 4\nbatch = 16", "epochs = 1\nbatch = 16")


class InterruptAt(Progress):
    """Sends Ctrl-C in the given training, after the given step."""

    def __init__(self, title, step):
        self.title, self.at, self.now, self.starts = title, step, "", []

    def start(self, title, epochs, resumed_at, step):
        self.now = title
        self.starts.append((title, resumed_at, step))

    def step(self, epoch, done, steps):
        if self.now == self.title and epoch * steps + done == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def learner_of(toy, **objective):
    experiment = Experiment(toy.recipe)
    torch.manual_seed(0)
    net = FactorNet(toy.recipe.ckn, toy.recipe.tsn, experiment.image, experiment.tasks)
    teacher_net = Classifier(toy.recipe.teacher.net, experiment.image, 5)
    teacher = Teacher(teacher_net, range(5), teacher_net.backbone.channels)
    experiment.live = Live(teacher)
    config = toy.recipe.objective.model_copy(update=objective)
    return FactorLearner(net, teacher.channels, config, seed=0), experiment


def batch_of(experiment, n=16):
    images = torch.from_numpy(experiment.train.load(slice(0, n)))
    return images, torch.from_numpy(experiment.train.labels[:n]), experiment.live.ask(images)


def test_the_objective_has_every_term_with_its_weight(toy):
    learner, experiment = learner_of(toy, lambda_kt=0.2, lambda_i=0.5, alpha=2.0, beta=1e-2)
    terms = learner(*batch_of(experiment), 0)
    assert {name: term.weight for name, term in terms.items()} == {
        "sup": 1.0, "kt": 0.2, "task": 0.5, "bottleneck": pytest.approx(0.005), "infomax": -1.0,
    }  # fmt: skip
    assert all(term.value.dtype == torch.float32 and term.value.ndim == 0 for term in terms.values())
    sum(term.weight * term.value for term in terms.values()).backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_noise_is_a_function_of_seed_and_step(toy):
    learner, experiment = learner_of(toy)
    learner.net.eval()
    batch = batch_of(experiment)
    first, again, other = (learner(*batch, step)["sup"].value for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("change", [{"lambda_i": 0.0}, {"beta": 0.0}])
def test_without_the_bottleneck_t_is_its_mean(toy, change):
    learner, experiment = learner_of(toy, **change)
    learner.net.eval()
    batch = batch_of(experiment)
    first, other = (learner(*batch, step)["sup"].value for step in (3, 4))
    assert torch.equal(first, other)


@pytest.mark.parametrize("change", [{"variant": "reference"}, {"infomax": "infonce"}, {"beta_reduction": "mean"}])
def test_variants_are_other_numbers(toy, change):
    learner, experiment = learner_of(toy)
    varied, _ = learner_of(toy, **change)
    for each in (learner, varied):
        each.net.eval()
    batch = batch_of(experiment)
    a, b = learner(*batch, 0), varied(*batch, 0)
    name = "bottleneck" if "beta_reduction" in change else "infomax"
    assert not torch.isclose(a[name].weight * a[name].value, b[name].weight * b[name].value)
    if change.get("variant") == "reference":  # its t is deterministic
        assert torch.equal(varied(*batch, 0)["sup"].value, varied(*batch, 1)["sup"].value)


def test_the_teacher_is_bit_identical_after_training(toy, tmp_path):
    learner, experiment = learner_of(toy)
    teacher = experiment.live.teacher
    before = {key: value.clone() for key, value in teacher.net.state_dict().items()}
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner.train()
    for step in range(3):
        optimizer.zero_grad()
        sum(term.weight * term.value for term in learner(*batch_of(experiment), step).values()).backward()
        optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in teacher.net.state_dict().items())
    assert not set(learner.state_dict()) & {f"teacher.{key}" for key in before}


def test_bf16_trains_a_whole_pool(toy, tmp_path):
    factorize(load_recipe(toy.write_recipe(tmp_path, SHORT), ["run.precision=bf16"]), tmp_path / "pool")
    assert Pool.open(tmp_path / "pool").manifest["training"]["precision"] == "bf16-mixed"


def test_more_levels_than_there_are_is_refused(toy):
    with pytest.raises(RecipeError, match="infomax_levels is 3, and teacher and CKN have 2 stages in common"):
        learner_of(toy, infomax_levels=3)


def test_a_pool_is_refused_or_resumed_but_never_overwritten(toy, tmp_path):
    with pytest.raises(OutputError, match="is already there"):
        factorize(toy.recipe, toy.pool)
    assert factorize(toy.recipe, toy.pool, resume=True).log == []
    # A run killed after the folder got its name had no time to sweep it.
    (toy.pool / "recipe.json").write_text("{}")
    (toy.pool / "train" / "checkpoint-000000001.pt").write_bytes(b"")
    factorize(toy.recipe, toy.pool, resume=True)
    assert not (toy.pool / "recipe.json").exists()
    assert not list(toy.pool.rglob(CHECKPOINTS))


def test_independent_tasks_are_calibrated_and_assemble_like_others(toy, tmp_path):
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.training.writing.temperatures import fit_temperatures

    recipe = load_recipe(toy.write_recipe(tmp_path), ["objective.coupling=independent"])
    factorize(recipe, tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert pool.manifest["coupling"] == "independent"
    assert list(pool.manifest["temperatures"]) == toy.tasks
    evidence = pool.evidence()
    labels = np.array([pool.manifest["classes"].index(name) for name in evidence.labels["class"]])
    # What is stored is calibrated already: nothing is left to divide by.
    again = fit_temperatures(evidence.logits, labels, np.array([0, 0, 1, 2, 3]))
    inside = [0.06 < value < 19 for value in pool.manifest["temperatures"].values()]
    assert again[inside] == pytest.approx(np.ones(sum(inside)), abs=1e-2)
    model = assemble(pool, ["élan", "pets"], tmp_path / "a")
    assert model.manifest["golden"]["difference"] <= model.manifest["golden"]["tolerance"]
    with pytest.raises(RecipeError, match=r"train\.label_smoothing spreads a label over the classes of all tasks"):
        load_recipe(toy.write_recipe(tmp_path), ["objective.coupling=independent", "train.label_smoothing=0.1"])


@pytest.mark.parametrize(
    ("title", "step", "goes_on"), [("teacher", 3, (2, 0)), ("factors", 2, (1, 2))], ids=["between", "within"]
)
def test_ctrl_c_and_resume_give_the_pool_of_an_uninterrupted_run(toy, tmp_path, title, step, goes_on):
    recipe = load_recipe(toy.write_recipe(tmp_path, SHORT), ["tasks={a=['cat','dog'],b=['uni','sea horse','élan']}"])
    out = tmp_path / "pool"
    with pytest.raises(Interrupted):
        factorize(recipe, out, report=InterruptAt(title, step))
    assert not out.exists()
    with pytest.raises(OutputError, match="holds an unfinished run") as caught:
        factorize(recipe, out)
    assert "--resume" in caught.value.hint
    (tmp_path / "pool.partial" / "train" / ".checkpoint-000000009.pt.partial").write_bytes(b"torn")
    changed = load_recipe(
        toy.write_recipe(tmp_path, SHORT),
        ["train.lr=0.2", "seed=5", "tasks={a=['cat','dog'],b=['uni','sea horse','élan']}"],
    )
    with pytest.raises(TrainingError, match=r"these keys differ: seed, train\.lr"):
        factorize(changed, out, resume=True)
    heard = InterruptAt("", 0)
    factorize(recipe, out, resume=True, report=heard)
    assert (title, *goes_on) in heard.starts
    assert not (tmp_path / "pool.partial").exists()
    assert not list(out.rglob("*.partial"))
    factorize(recipe, tmp_path / "whole")
    one, two = (load_tensors(path / "train" / "state.safetensors") for path in (out, tmp_path / "whole"))
    assert all(np.array_equal(one[key], two[key]) for key in two)
    assert (out / "task.onnx").read_bytes() == (tmp_path / "whole" / "task.onnx").read_bytes()


def test_a_teacher_that_is_too_weak_stops_everything_with_both_figures(toy, tmp_path):
    weak = load_recipe(toy.write_recipe(tmp_path, SHORT), ["teacher.min_accuracy=1.0", "teacher.train.epochs=1"])
    out = tmp_path / "pool"
    message = r"the teacher's accuracy is 0\.\d+ \(validation .*, test .*\), and the recipe asks for at least 1\.0000"
    with pytest.raises(TeacherError, match=message):
        factorize(weak, out)
    assert not out.exists()
    # Its training is not thrown away: the bound can be lowered, and the run goes on.
    lower = load_recipe(toy.write_recipe(tmp_path, SHORT), ["teacher.min_accuracy=0.0", "teacher.train.epochs=1"])
    heard = InterruptAt("", 0)
    factorize(lower, out, resume=True, report=heard)
    assert heard.starts == [("teacher", 2, 0), ("factors", 0, 0)]


def test_a_teacher_that_is_gone_does_not_cost_the_training(toy, tmp_path):
    """--resume with the teacher's disk unplugged is an error, and the checkpoint stays."""
    recipe = load_recipe(toy.write_recipe(tmp_path, SHORT), ["teacher.train.epochs=1"])
    out = tmp_path / "pool"
    with pytest.raises(Interrupted):
        factorize(recipe, out, report=InterruptAt("factors", 2))
    work = tmp_path / "pool.partial" / "train"
    teacher = {path: path.read_bytes() for path in (work / "teacher").glob(CHECKPOINTS)}
    for path in teacher:
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match=f"none of the {len(teacher)} checkpoints in '.*teacher' can be read"):
        factorize(recipe, out, resume=True)
    assert list(work.glob(CHECKPOINTS))
    for path, whole in teacher.items():
        path.write_bytes(whole)
    factorize(recipe, out, resume=True)


def test_resuming_a_finished_pool_of_another_recipe_says_so(toy, tmp_path):
    other = load_recipe(toy.write_recipe(tmp_path), ["train.epochs=9"])
    with pytest.raises(TrainingError, match=r"was made with another recipe; these keys differ: train\.epochs"):
        factorize(other, toy.pool, resume=True)


def test_a_teacher_that_cannot_be_exported_is_left_out(toy, tmp_path, monkeypatch):
    from kfdeploy import factorize as verb  # the function
    from kfdeploy.errors import ComposeError

    def refuse(*_):
        raise ComposeError("no such operator")

    monkeypatch.setitem(verb.__globals__, "write_classifier", refuse)
    notes = []

    class Notes(Progress):
        def note(self, text):
            notes.append(text)

    recipe = load_recipe(toy.write_recipe(tmp_path, SHORT), ["teacher.train.epochs=1"])
    factorize(recipe, tmp_path / "pool", report=Notes())
    assert notes == ["the teacher is left out of benchmarks: no such operator"]
    Pool.open(tmp_path / "pool").check()


def test_a_term_that_is_not_a_number_stops_it(toy, tmp_path):
    wild = load_recipe(toy.write_recipe(tmp_path), ["train.lr=1e30", "train.warmup=0.0"])
    with pytest.raises(
        TrainingError, match=r"(the term '\w+' became (nan|-?inf) at step \d+|weights .* are not finite)"
    ):
        factorize(wild, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_bad_data_leave_nothing(toy, tmp_path):
    for setting in ("data.root=nowhere", "data.ignore=['jnk']"):
        with pytest.raises(Exception, match="no folder|jnk"):
            factorize(load_recipe(toy.write_recipe(tmp_path), [setting]), tmp_path / "pool")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_the_manifest_tells_how_it_was_made(toy):
    manifest = Pool.open(toy.pool).manifest
    assert manifest["training"]["device"] == "cpu"
    assert manifest["training"]["epochs"] == 4
    assert manifest["nets"]["tap"] == {"name": "stage2", "channels": 16}
    assert manifest["versions"]["torch"]
    assert manifest["recipe"]["seed"] == 1
    json.dumps(manifest)


def test_other_taps_and_networks_make_pools_too(toy, tmp_path):
    """An image tap, a residual TSN that cannot fold everything, one-class tasks."""
    path = toy.write_recipe(
        tmp_path, SHORT, ('tap = "stage2"', 'tap = "image"'),
        ('{ family = "convnet", channels = [8, 16], strides = [2, 1] }', '{ family = "wide_resnet", depth = 10, width = 1 }'),
    )  # fmt: skip
    recipe = load_recipe(path, ["tasks=classes", "teacher.train.epochs=1"])
    factorize(recipe, tmp_path / "pool")
    from kfdeploy.deploy.assemble import assemble

    model = assemble(tmp_path / "pool", ["élan", "cat"], tmp_path / "a")
    assert model.manifest["fuse"] == "bank"
    assert model.manifest["golden"]["difference"] <= model.manifest["golden"]["tolerance"]


def test_a_common_network_as_large_as_a_student_is_told_of(toy):
    from kfdeploy.training.factorize import _advise
    from kfdeploy.training.loop.progress import Progress

    class Heard(Progress):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    for ckn, count in ((toy.recipe.students[0].net, 1), (toy.recipe.ckn, 0)):
        heard = Heard()
        recipe = toy.recipe.model_copy(update={"ckn": ckn})
        _advise(recipe, Experiment(toy.recipe, heard))
        assert len(heard.notes) == count


def test_a_teachers_confusions_make_the_tasks(toy, tmp_path):
    """The tasks are on record, the pool's logits are in their order, and a student and a resumed run have the same."""
    from kfdeploy.training.distill import distill

    fields = toy.recipe.model_dump() | {"tasks": {"group": 2}}
    recipe = parse_recipe(apply_settings(fields, ["train.epochs=2", "teacher.train.epochs=2"]), "toy")
    told = []
    report = Progress()
    report.note = told.append
    factorize(recipe, tmp_path / "pool", report=report)
    pool = Pool.open(tmp_path / "pool")
    assert [len(task.classes) for task in pool.tasks] == [3, 2] or [len(task.classes) for task in pool.tasks] == [2, 3]
    assert sorted(pool.classes) == ["cat", "dog", "sea horse", "uni", "élan"]
    assert any(note.startswith("the tasks: ") and pool.tasks[0].name in note for note in told)
    assert pool.recipe["tasks"] == {"group": 2}
    teacher = Model.open(tmp_path / "pool" / "train" / "teacher")
    assert teacher.classes == pool.classes
    assert subset_accuracy(teacher.evidence(), teacher.tasks).value == pytest.approx(
        pool.teacher["accuracy"]["validation"]
    )
    factorize(recipe, tmp_path / "pool", resume=True)
    with pytest.raises(RecipeError, match="are made by `kfdeploy factorize`, from the teacher's confusions") as caught:
        distill(recipe, tasks=[pool.tasks[0].name], out=tmp_path)
    assert caught.value.hint == "name the pool that it wrote: --pool"
    (folder,) = distill(recipe, tasks=[pool.tasks[0].name], pool=tmp_path / "pool", out=tmp_path)
    assert Model.open(folder).classes == pool.tasks[0].classes
    (folder,) = distill(recipe, out=tmp_path / "whole")  # without a pool the teacher is asked again
    assert Model.open(folder).tasks == pool.tasks
