import numpy as np
import pytest

from kfdeploy.deploy.here import find_verifiable
from kfdeploy.deploy.parity import compare, judge, require
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import ParityError, PoolError
from kfdeploy.targets.base import run_in_batches
from kfdeploy.tasks.spec import TaskSpec

TASKS = (TaskSpec("a", ("x", "y")), TaskSpec("b", ("z",)))
IMAGES = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)


class Fake:
    """A session that returns what it is told, and remembers its batches."""

    def __init__(self, logits, name="logits"):
        self.logits, self.name, self.batches = logits, name, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass

    def run(self, inputs):
        self.batches.append(len(inputs["image"]))
        rows = [int(image.flat[0]) // 4 for image in inputs["image"]]
        return {self.name: self.logits[rows]}


def test_logits_of_another_shape_are_not_stretched_to_fit():
    expected = np.zeros((5, 3), np.float32)
    for columns in (1, 6):
        with pytest.raises(ParityError, match="have shape"):
            judge(np.zeros((5, columns), np.float32), expected, TASKS, 1.0)


def test_differences_are_told_by_task():
    expected = np.zeros((5, 3), np.float32)
    found = expected.copy()
    found[2, 1], found[4, 2] = 0.5, -2e-5
    verdict = compare(Fake(found), IMAGES, expected, TASKS)
    assert verdict.tasks == {"a": 0.5, "b": pytest.approx(2e-5)}
    assert not verdict.passed
    with pytest.raises(
        ParityError,
        match=r"it, step 'engine', differs from the ONNX graph it was made from by 0\.5 .* 0\.0001 is allowed "
        r"\(worst task: 'a'; to blame: the network of 'a'\)",
    ) as caught:
        require(verdict, "it")
    assert caught.value.hint == "--atol 0.5 would have passed"
    require(compare(Fake(found), IMAGES, expected, TASKS, allowed=0.5), "it")
    assert set(verdict.to_json()) == {"step", "difference", "tolerance", "samples", "tasks", "equal"}
    found[:, 2] = 1
    everywhere = compare(Fake(found), IMAGES, expected, TASKS, step="onnx")
    with pytest.raises(ParityError, match=r"it differs from the torch network by .* to blame: the CKN\)"):
        require(everywhere, "it")


def test_what_is_not_a_number_never_passes():
    found = np.zeros((5, 3), np.float32)
    found[0, 0] = np.nan
    verdict = compare(Fake(found), IMAGES, np.zeros((5, 3), np.float32), TASKS, allowed=1e9)
    assert not verdict.passed


def test_names_and_shapes_are_a_part_of_it():
    zeros = np.zeros((5, 3), np.float32)
    with pytest.raises(ParityError, match=r"outputs are \['other'\]"):
        compare(Fake(zeros, "other"), IMAGES, zeros, TASKS)
    with pytest.raises(ParityError, match=r"have shape \(5, 2\), the golden samples' have \(5, 3\)"):
        compare(Fake(zeros[:, :2]), IMAGES, zeros, TASKS)


def test_a_fixed_batch_is_filled_up_and_cut_off():
    logits = np.arange(15, dtype=np.float32).reshape(5, 3)
    fake = Fake(logits)
    assert np.array_equal(run_in_batches(fake, IMAGES, 2)["logits"], logits)
    assert fake.batches == [2, 2, 2]
    assert np.array_equal(run_in_batches(Fake(logits), IMAGES, 0)["logits"], logits)


def test_everything_with_golden_samples_can_be_verified(toy, assembly, artifacts):
    for path in (toy.pool, assembly.path, toy.students / "small", *(artifact.path for artifact in artifacts)):
        verdict = verify(path)
        assert verdict.passed
        assert verdict.samples == 16
    assert len(verify(toy.pool).tasks) == 4
    with pytest.raises(ParityError, match="is allowed"):
        verify(toy.pool, atol=0.0)


def test_what_is_here_is_found(toy, here):
    with pytest.raises(PoolError, match="there is nothing to verify here"):
        find_verifiable([])
    (here / "pool").mkdir()
    assert [str(path) for path in find_verifiable([])] == ["pool"]
    assert [str(path) for path in find_verifiable(["x"])] == ["x"]
