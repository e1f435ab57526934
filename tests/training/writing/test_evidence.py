import numpy as np
import torch

from kfdeploy.data.imageset import ImageSet
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.writing.evidence import golden_samples, recorded


def test_golden_samples_are_spread_over_the_classes_in_order():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 1, 2, 0])
    found = golden_samples(labels, 4)
    assert list(found) == sorted(found)
    assert set(labels[found]) == {0, 1, 2}
    assert list(golden_samples(labels)) == list(range(10))


def test_what_is_recorded_are_the_networks_own_logits_in_the_sets_order():
    images = np.random.default_rng(0).integers(0, 255, (30, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(30) % 3
    data = ImageSet(("a", "b", "c"), labels, np.arange(100, 130), ImageSpec((4, 4), 1, (0.5,), (0.5,)), images)
    found = recorded(data, lambda some: some.float().mean((1, 2, 3))[:, None] * torch.tensor([1.0, 2.0, 3.0]))
    expected = images.mean((1, 2, 3), dtype=np.float64)[:, None] * [1, 2, 3]
    assert np.allclose(found["validation.logits"], expected, atol=1e-3)
    assert found["validation.logits"].dtype == np.float32
    golden = golden_samples(labels)
    assert (found["golden.images"] == images[golden]).all()
    assert (found["golden.logits"] == found["validation.logits"][golden]).all()
    assert (found["validation.rows"] == np.arange(100, 130)).all()
