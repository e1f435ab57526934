import numpy as np
import pytest

from kfdeploy.tasks.kinds.classes import accuracy, calibration_error, confusion, label_columns, shares

LOGITS = np.array([[2, 1], [0, 1], [3, 4]], dtype=np.float32)


def test_labels_are_columns_and_others_are_none():
    assert list(label_columns(["b", "a", "x", "b"], ("a", "b"))) == [1, 0, -1, 1]
    assert label_columns([], ("a",)).dtype == np.int64


def test_the_largest_logit_counts():
    assert accuracy(LOGITS, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert np.isnan(accuracy(LOGITS[:0], np.array([], dtype=np.int64)))
    assert confusion(LOGITS, np.array([0, 1, 0])).tolist() == [[1, 1], [0, 1]]


def test_shares_sum_to_one_and_do_not_overflow():
    found = shares(np.array([[1000.0, 1000.0, -1000.0]]))
    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0]]))
    assert shares(np.log([[0.8, 0.2]])) == pytest.approx(np.array([[0.8, 0.2]]))


def test_a_classifier_that_knows_how_sure_it_is_has_no_calibration_error():
    logits = np.log(np.array([[0.8, 0.2]] * 10))
    assert calibration_error(logits, np.array([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)
