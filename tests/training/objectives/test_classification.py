import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from kfdeploy.training.objectives.classification import against_other, other_targets, rest_as_other, task_information
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each


def test_soft_targets_are_the_divergence_of_torch_times_t_squared():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    T = 3.0
    exact = kl_divergence(Categorical(logits=teacher / T), Categorical(logits=student / T)).mean() * T**2
    assert torch.allclose(soft_targets(student, teacher, T), exact, atol=1e-5)
    assert abs(float(soft_targets(teacher + 7, teacher, T))) < 1e-5


def test_its_gradient_points_from_the_student_to_the_teacher():
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[2.0, 0.0]])
    soft_targets(student, teacher, 1.0).backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]


def test_each_task_sees_its_own_classes_and_calls_the_rest_other():
    owner, local = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 1, 1])
    found = other_targets(torch.tensor([0, 1, 2, 3]), owner, local, 3)
    assert found.tolist() == [[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_task_information_sums_over_tasks_and_ignores_hidden_columns():
    torch.manual_seed(0)
    logits = torch.randn(4, 2, 3)
    logits[:, 1, 2] = -torch.inf
    targets = torch.tensor([[0, 1], [1, 0], [2, 0], [0, 1]])
    expected = F.cross_entropy(logits[:, 0], targets[:, 0]) + F.cross_entropy(logits[:, 1, :2], targets[:, 1])
    assert torch.allclose(task_information(logits, targets), expected)
    logits.requires_grad_()
    task_information(logits, targets).backward()
    assert torch.isfinite(logits.grad).all()


def test_a_task_of_one_class_still_has_something_to_tell():
    """Without "other" the term would be zero whatever t says."""
    good = torch.tensor([[[-3.0, 3.0]], [[3.0, -3.0]]])
    targets = torch.tensor([[1], [0]])
    assert task_information(good, targets) < task_information(torch.zeros(2, 1, 2), targets)


OWNER, LOCAL = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])


def test_log_odds_stand_side_by_side():
    """Given that the answer is one of two tasks' classes, their log-odds' softmax is Bayes' rule."""
    torch.manual_seed(0)
    logits = torch.randn(5, 3)
    rows = against_other(logits, OWNER, LOCAL, 2).softmax(2)  # p_j(other), p_j(own classes)
    assert torch.equal(rows[:, 1, 2], torch.zeros(5))
    odds = torch.stack([rows[:, 0, 1] / rows[:, 0, 0], rows[:, 0, 2] / rows[:, 0, 0], rows[:, 1, 1] / rows[:, 1, 0]], 1)
    assert torch.allclose(logits.softmax(1), odds / odds.sum(1, keepdim=True), atol=1e-6)


def test_the_teacher_s_mass_on_other_classes_is_other():
    teacher = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    rows = rest_as_other(teacher, OWNER, LOCAL, 2).softmax(2)
    assert torch.allclose(rows, torch.tensor([[[0.2, 0.5, 0.3], [0.8, 0.2, 0.0]]]), atol=1e-6)


def test_soft_targets_of_each_task_are_torchs_divergences_summed():
    torch.manual_seed(0)
    student, teacher, T = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3), 2.0
    own = against_other(student, OWNER, LOCAL, 2)
    merged = rest_as_other(teacher / T, OWNER, LOCAL, 2)
    p = (teacher / T).softmax(1)
    first = kl_divergence(
        Categorical(torch.stack([p[:, 2], p[:, 0], p[:, 1]], 1)), Categorical(logits=own[:, 0] / T)
    ).mean()
    second = kl_divergence(
        Categorical(torch.stack([p[:, 0] + p[:, 1], p[:, 2]], 1)), Categorical(logits=own[:, 1, :2] / T)
    ).mean()
    found = soft_targets_each(own, merged, T)
    assert torch.allclose(found, T**2 * (first + second), atol=1e-5)
    found.backward()
    assert torch.isfinite(student.grad).all()
