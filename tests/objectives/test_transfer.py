import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from kfdeploy.objectives import other_targets, soft_targets, task_information


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
