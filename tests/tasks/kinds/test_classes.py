import numpy as np
import pytest

from kfdeploy.tasks.kinds.classes import accuracy, auc, calibration_error, confusion, label_columns, shares, worst_pairs

LOGITS = np.array([[2, 1], [0, 1], [3, 4]], dtype=np.float32)


def test_labels_are_columns_and_others_are_none():
    assert list(label_columns(["b", "a", "x", "b"], ("a", "b"))) == [1, 0, -1, 1]
    assert label_columns([], ("a",)).dtype == np.int64


def test_the_largest_logit_counts():
    assert accuracy(LOGITS, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert np.isnan(accuracy(LOGITS[:0], np.array([], dtype=np.int64)))
    assert confusion(LOGITS, np.array([0, 1, 0])).tolist() == [[1, 1], [0, 1]]


def test_the_worst_pairs_are_mistakes_alone():
    table = np.array([[9, 1, 0], [0, 2, 3], [1, 0, 0]])
    assert worst_pairs(table) == [(1, 2), (0, 1), (2, 0)]
    assert worst_pairs(table, 1) == [(1, 2)]
    assert worst_pairs(np.eye(3, dtype=np.int64)) == []


def test_shares_sum_to_one_and_do_not_overflow():
    found = shares(np.array([[1000.0, 1000.0, -1000.0]]))
    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0]]))
    assert shares(np.log([[0.8, 0.2]])) == pytest.approx(np.array([[0.8, 0.2]]))


def test_a_classifier_that_knows_how_sure_it_is_has_no_calibration_error():
    logits = np.log(np.array([[0.8, 0.2]] * 10))
    assert calibration_error(logits, np.array([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)


def test_the_area_is_the_mean_of_one_against_the_rest():
    logits = np.array([[2.0, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1], [9, 0, 0]])
    labels = np.array([0, 0, 1, 2, -1])
    assert auc(logits, labels) == 1
    share = np.exp(logits[:4]) / np.exp(logits[:4]).sum(1, keepdims=True)
    swapped = np.array([1, 0, 1, 2])  # class 0 has one of its own, above all; class 1 one above and one below
    pairs = [(share[1, 0] > share[[0, 2, 3], 0]).mean(), (share[[0, 2], 1][:, None] > share[[1, 3], 1]).mean(), 1.0]
    assert auc(logits[:4], swapped) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(logits, np.full(5, -1)))
