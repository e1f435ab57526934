import numpy as np
import pytest
import torch
from runtimes import session

from kfdeploy.data.imageset import ImageSet
from kfdeploy.deploy.model import Model
from kfdeploy.errors import OutputError, RecipeError, TaskError
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import ImageSpec, columns
from kfdeploy.training.distill import distill
from kfdeploy.training.learners.classifier import ClassifierLearner
from kfdeploy.training.loop.learner import Taught
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.training.recipe.sections import SoftTargets
from kfdeploy.training.transfer.logits import soft_targets


def test_a_student_is_an_assemblys_twin(toy):
    student = Model.open(toy.students / "small")
    student.check()
    assert student.kind == "student"
    assert student.classes == Model.open(toy.pool / "train" / "teacher").classes
    evidence = student.evidence()
    found = session(student.graph, 1).run(None, {"image": evidence.images})[0]
    assert abs(found - evidence.golden).max() < 1e-4
    assert evidence.labels == Pool.open(toy.pool).evidence().labels
    assert (evidence.rows == Pool.open(toy.pool).evidence().rows).all()
    assert student.manifest["training"]["epochs"] == 4


def test_a_student_for_just_some_tasks(toy, tmp_path):
    done = distill(toy.recipe, tasks=["élan", "pets"], pool=toy.pool, out=tmp_path)
    assert [path.name for path in done] == ["small-%C3%A9lan-pets"]
    student = Model.open(next(iter(done)))
    assert student.classes == ("élan", "cat", "dog")
    assert set(student.evidence().labels["class"]) == {"élan", "cat", "dog"}
    assert columns(student.classes, ["cat", "dog"]) == [1, 2]
    with pytest.raises(TaskError, match="does not know the class 'sea horse'"):
        columns(student.classes, ["sea horse"])
    with pytest.raises(RecipeError, match="the task 'élan' is one class"):
        distill(toy.recipe, tasks=["élan"], pool=toy.pool, out=tmp_path)


def test_without_a_pool_the_teacher_is_trained(toy, tmp_path):
    short = load_recipe(toy.write_recipe(tmp_path), ["train.epochs=1", "teacher.train.epochs=1"])
    done = distill(short, out=tmp_path / "students")
    assert list(done) == [tmp_path / "students" / "small"]
    assert not (tmp_path / "students" / "small" / "train" / "teacher").exists()
    assert distill(short, out=tmp_path / "students", resume=True) == {tmp_path / "students" / "small": None}


def test_separate_students_stand_side_by_side(toy, tmp_path):
    """One network a task, each against all the others, calibrated, in one graph: what is done without a pool."""
    recipe = toy.recipe.model_copy(update={"train": toy.recipe.train.model_copy(update={"epochs": 2})})
    done = distill(recipe, tasks=["élan", "pets"], separate=True, pool=toy.pool, out=tmp_path)
    (folder,) = done
    assert folder.name == "small-separate-%C3%A9lan-pets"
    found = Model.open(folder)
    found.check()
    assert (found.kind, found.classes) == ("student", ("élan", "cat", "dog"))
    assert found.manifest["net"].startswith("2 × ")
    assert found.manifest["training"]["models"] == 2
    assert found.manifest["training"]["images"] == Model.open(toy.students / "small").manifest["training"]["images"]
    alone = distill(recipe, tasks=["élan", "pets"], pool=toy.pool, out=tmp_path)
    assert found.manifest["parameters"] > 1.9 * Model.open(next(iter(alone))).manifest["parameters"]
    assert distill(recipe, tasks=["élan", "pets"], separate=True, out=tmp_path, resume=True) == {folder: None}
    with pytest.raises(RecipeError, match="there is one task, 'pets': nothing to separate"):
        distill(recipe, tasks=["pets"], separate=True, out=tmp_path)


def test_against_the_rest_is_what_an_independent_task_learns():
    """The same losses as a pool of one task against "other" has, whatever the columns' order."""
    from torch import nn

    from kfdeploy.training.learners.classifier import AgainstRest

    logits, teacher = torch.randn(6, 2), torch.randn(6, 5)
    labels = torch.tensor([0, 1, 2, 3, 4, 3])

    class Fixed(nn.Module):
        def forward(self, image):
            return (logits,)

    learner = AgainstRest(Fixed(), SoftTargets(weight=0.5, temperature=3.0), [3, 1], 5)
    terms = learner(torch.zeros(6), labels, Taught(teacher, ()), 0)
    odds = torch.cat([torch.zeros(6, 1), logits], 1)
    targets = torch.tensor([0, 2, 0, 1, 0, 1])
    torch.testing.assert_close(terms["sup"].value, torch.nn.functional.cross_entropy(odds, targets))
    share = (teacher / 3).softmax(1)
    merged = torch.stack([share[:, [0, 2, 4]].sum(1), share[:, 3], share[:, 1]], 1).log()
    expected = soft_targets(odds, merged * 3, 3.0)
    torch.testing.assert_close(terms["kt"].value, expected)
    torch.testing.assert_close(learner.evaluate(torch.zeros(6)), odds)
    data = ImageSet(tuple("abcde"), labels.numpy(), np.arange(6), ImageSpec((1, 1), 1, (0.5,), (0.5,)))
    sure = np.eye(3)[targets.numpy()]
    assert learner.right(sure, data) == {"class": (6, 6)}
    assert learner.right(np.roll(sure, 1, axis=0), data) == {"class": (int((targets.roll(1) == targets).sum()), 6)}


def test_what_cannot_be_distilled(toy, tmp_path):
    with pytest.raises(RecipeError, match="has no student 'smal'") as caught:
        distill(toy.recipe, students=["smal"], out=tmp_path)
    assert caught.value.hint == "did you mean 'small'?"
    with pytest.raises(RecipeError, match="has no students"):
        distill(toy.recipe.model_copy(update={"students": []}), out=tmp_path)
    with pytest.raises(TaskError, match="task 'pest' is not in recipe 'toy'"):
        distill(toy.recipe, tasks=["pest"], out=tmp_path)
    with pytest.raises(OutputError, match="is already there"):
        distill(toy.recipe, pool=toy.pool, out=toy.students)


def test_soft_targets_and_labels_are_weighed(toy):
    torch.manual_seed(0)
    image = Pool.open(toy.pool).image
    net = Classifier(toy.recipe.teacher.net, image, 5)
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    terms = ClassifierLearner(net, SoftTargets(weight=0.7, temperature=2.0))(
        images, torch.arange(4), Taught(torch.randn(4, 5), ()), 0
    )
    assert {name: term.weight for name, term in terms.items()} == {"sup": pytest.approx(0.3), "kt": 0.7}
    assert set(ClassifierLearner(net)(images, torch.arange(4), None, 0)) == {"sup"}
