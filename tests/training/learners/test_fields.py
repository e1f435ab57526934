"""Losses of several fields: closed forms, what is unknown counts nothing, the gradient's direction."""

import pytest
import torch
import torch.nn.functional as F

from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.training.learners.fields import FieldLosses, by_field, field_losses, known_information, summed
from kfdeploy.training.objectives.classification import against_other
from kfdeploy.training.transfer.logits import soft_targets

# Columns: shape 0 1 2 (whole), hue 3 4 | 5 (split), class 6 7.
TASKS = (
    TaskSpec("shape", ("square", "ellipse", "heart"), field="shape"),
    TaskSpec("warm", ("red", "yellow"), field="hue"),
    TaskSpec("cold", ("blue",), field="hue"),
    TaskSpec("pets", ("cat", "dog")),
)
LABELS = torch.tensor([[0, 5, 7], [2, -1, 6], [-1, 3, -1], [1, 4, 6]])
LOGITS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def losses(field, coupling="joint", **more):
    return FieldLosses(TASKS, field, coupling, **more)


def labels_of(field):
    return LABELS[:, ["shape", "hue", "class"].index(field)]


def test_each_field_has_its_column_of_the_labels_and_its_coupling():
    found = field_losses(TASKS, {"hue": "independent", "shape": "independent"}, {"shape": 2.0}, ["shape", "class"])
    pairs = list(by_field(found, LABELS))
    assert [each.field for each, _ in pairs] == ["shape", "hue", "class"]
    assert all(torch.equal(labels, labels_of(each.field)) for each, labels in pairs)
    assert [each.independent for each, _ in pairs] == [False, True, False]  # a whole field has nothing to be apart from
    assert [each.weight for each, _ in pairs] == [2.0, 1.0, 1.0]
    assert [each.taught for each, _ in pairs] == [True, False, True]


def test_a_joint_field_is_the_cross_entropy_of_its_own_columns_where_it_is_known():
    hue = losses("hue")
    expected = F.cross_entropy(LOGITS[[0, 2, 3]][:, [3, 4, 5]], torch.tensor([2, 0, 1]))
    torch.testing.assert_close(hue.sup(LOGITS, labels_of("hue")), expected)
    smooth = F.cross_entropy(LOGITS[[0, 2, 3]][:, [3, 4, 5]], torch.tensor([2, 0, 1]), label_smoothing=0.1)
    torch.testing.assert_close(hue.sup(LOGITS, labels_of("hue"), 0.1), smooth)


def test_an_unknown_label_moves_nothing():
    logits = LOGITS.clone().requires_grad_()
    losses("shape").sup(logits, labels_of("shape")).backward()
    assert logits.grad[2].abs().sum() == 0
    assert logits.grad[:, 3:].abs().sum() == 0  # nor does another field's column
    assert (logits.grad[[0, 1, 3], [0, 2, 1]] < 0).all()  # a step against it raises the label's own logit
    none = losses("shape").sup(logits, torch.full((4,), -1))
    assert none == 0


def test_tasks_of_an_independent_field_stand_against_other():
    hue = losses("hue", "independent")
    assert hue.targets(labels_of("hue")).tolist() == [[0, 1], [-1, -1], [1, 0], [2, 0]]
    known, targets = LOGITS[[0, 2, 3]], torch.tensor([[0, 1], [1, 0], [2, 0]])
    warm = torch.cat([torch.zeros(3, 1), known[:, [3, 4]]], 1)
    cold = torch.cat([torch.zeros(3, 1), known[:, [5]]], 1)
    expected = F.cross_entropy(warm, targets[:, 0]) + F.cross_entropy(cold, targets[:, 1])
    torch.testing.assert_close(hue.sup(LOGITS, labels_of("hue")), expected)


def test_soft_targets_are_of_the_field_s_own_columns_for_every_image():
    teacher = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    found = losses("shape").kt(LOGITS, teacher, 4.0)
    torch.testing.assert_close(found, soft_targets(LOGITS[:, :3], teacher[:, :3], 4.0))
    assert losses("hue", "independent").kt(teacher, teacher, 4.0) >= 0
    # The teacher's mass on the other task's classes is "other": what the student says of them in log-odds is free.
    odds = torch.log_softmax(teacher[:, [3, 4, 5]] / 4, 1)
    others = torch.stack([odds[:, 2], odds[:, :2].logsumexp(1)], 1)
    same = torch.zeros(4, 8)
    same[:, 3:6] = 4 * (odds - others[:, [0, 0, 1]])
    torch.testing.assert_close(
        losses("hue", "independent").kt(same, teacher, 4.0), torch.tensor(0.0), atol=1e-5, rtol=0
    )


def test_information_of_a_whole_field_has_no_other():
    rows = torch.randn(4, 1, 4, generator=torch.Generator().manual_seed(2))
    rows[:, :, 0] = -torch.inf
    expected = F.cross_entropy(rows[[0, 1, 3], 0, 1:], torch.tensor([0, 2, 1]))
    torch.testing.assert_close(losses("shape").information(rows, labels_of("shape")), expected)


def test_the_field_class_alone_is_what_it_always_was():
    tasks = (TaskSpec("pets", ("cat", "dog")), TaskSpec("fish", ("fish",)))
    alone = FieldLosses(tasks, "class")
    labels, logits = torch.tensor([0, 2, 1]), torch.randn(3, 3)
    assert alone.own(logits) is logits
    assert torch.equal(alone.sup(logits, labels), F.cross_entropy(logits, labels))
    apart = FieldLosses(tasks, "class", "independent")
    rows = against_other(logits, apart.owner, apart.local, 2)
    torch.testing.assert_close(apart.sup(logits, labels), known_information(rows, apart.targets(labels)))


@pytest.mark.parametrize(("terms", "value"), [([], 0.0), ([2.0], 2.0), ([2.0, 3.0], 5.0)])
def test_sums_of_fields(terms, value):
    assert summed([torch.tensor(term) for term in terms], LOGITS) == value
