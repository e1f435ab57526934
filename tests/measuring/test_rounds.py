import time

import numpy as np
import pytest

from kfdeploy.deploy.export import export
from kfdeploy.errors import KfdeployError
from kfdeploy.measuring.accuracy import correct
from kfdeploy.measuring.intervals import difference_interval, ratio_interval
from kfdeploy.measuring.rounds import Job, describe_machine, measure, measure_afresh
from kfdeploy.targets.base import Setup
from kfdeploy.targets.device.clock import QUICK, Protocol, time_runs


def test_a_known_time_is_measured():
    def busy(i):
        end = time.perf_counter_ns() + 2_000_000
        while time.perf_counter_ns() < end:
            pass

    found = time_runs(busy, Protocol(runs=100, least=100, seconds=0.1, window=0.02, patience=1.5))
    assert abs(np.median(found.samples) - 2.0) < 0.02  # 1 %
    assert len(found.samples) == 100
    assert found.first >= 2.0
    assert found.warm_up > 0


def test_a_clock_that_does_not_settle_says_so():
    def drifting(i):
        # Each run takes a fifth longer than the last, so that no two windows agree, whatever else runs here.
        end = time.perf_counter_ns() + int(50_000 * 1.2 ** min(i, 35))
        while time.perf_counter_ns() < end:
            pass

    found = time_runs(drifting, Protocol(runs=5, least=5, seconds=0.01, window=0.001, patience=0.05, quick=True))
    assert not found.stable


def test_the_ratio_of_medians_comes_with_its_interval():
    random = np.random.default_rng(0)
    a = [2 * random.lognormal(0, 0.1, 300) for _ in range(5)]
    b = [random.lognormal(0, 0.1, 300) for _ in range(5)]
    ratio, (low, high) = ratio_interval(a, b)
    assert low < 2.0 < high
    assert high - low < 0.1
    assert low < ratio < high
    assert ratio_interval(a, b) == (ratio, (low, high))
    one, (low, high) = ratio_interval(a, a)
    assert low <= 1 <= high
    assert one == 1


def test_slow_rounds_widen_the_interval_instead_of_shifting_it():
    """Both sides of a round share the machine's state, so a slow round cancels."""
    random = np.random.default_rng(0)
    state = [1.0, 3.0, 1.0, 2.0, 1.0]
    a = [s * 0.5 * random.lognormal(0, 0.02, 200) for s in state]
    b = [s * random.lognormal(0, 0.02, 200) for s in state]
    ratio, (low, high) = ratio_interval(a, b)
    assert abs(ratio - 0.5) < 0.01
    assert high < 0.53
    assert low > 0.47


def test_accuracy_differences_are_paired():
    random = np.random.default_rng(0)
    b = (random.random(2000) < 0.9).astype(float)
    a = b.copy()
    a[:20] = 1 - a[:20]
    difference, (low, high) = difference_interval(a, b)
    assert difference == pytest.approx((a - b).mean())
    assert low <= difference <= high
    assert high - low < 0.01  # unpaired it would be ±1.3 points
    assert difference_interval(b, b) == (0.0, (0.0, 0.0))


def test_one_round_in_a_fresh_process(artifacts):
    job = Job(str(artifacts[0].path), "single-stream", 1, 1)
    found = measure_afresh(job, QUICK)
    assert len(found.samples) >= QUICK.least
    assert found.load > 0
    assert min(found.samples) > 0
    with pytest.raises(KfdeployError, match=r"measuring .*none' failed: there is no artifact") as caught:
        measure_afresh(Job(str(artifacts[0].path / "none"), "single-stream", 1, 1), QUICK)
    assert "kfdeploy verify" in caught.value.hint


def test_measuring_here(artifacts, assembly, tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    for artifact in artifacts[:2]:
        assert measure(Job(str(artifact.path), "offline", 1, 4), QUICK).samples
    fixed = export(assembly, "onnx", batch=2, out=tmp_path)
    with pytest.raises(KfdeployError, match="has the fixed batch 2, not 1"):
        measure(Job(str(fixed.path), "single-stream", 1, 1), QUICK)


def test_right_and_wrong_are_counted_on_the_file_that_is_timed(toy, artifacts):
    from kfdeploy.data.splits import test_images as images_of

    artifact = artifacts[0]
    data = images_of(artifact.data, artifact.image, ["cat", "sea horse"], toy.data)
    found = correct(artifact, data, {"class": ["cat", "sea horse"]}, 1)["class"]
    assert len(found) == 12
    assert set(found) <= {0.0, 1.0}


def test_the_machine_is_described_without_its_name():
    import platform

    about = describe_machine()
    assert about["cores"] >= 1
    assert "numpy" in about["versions"]
    assert platform.node() not in str(about).split()


def test_a_session_says_whether_it_runs_on_a_gpu(artifacts):
    with artifacts[0].session(Setup()) as session:
        assert session.gpu is False
