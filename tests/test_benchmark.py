import io
import json

import pytest

from kfdeploy import report
from kfdeploy.benchmark import benchmark
from kfdeploy.errors import MissingDependencyError, PoolError, TaskError, UnsupportedError


@pytest.fixture(scope="module")
def result(artifacts):
    notes = []
    found = benchmark([artifact.path for artifact in artifacts], quick=True, report=notes.append)
    assert any("round 1 of 3" in note for note in notes)
    return found


def test_rows_have_what_the_contract_says(result, toy):
    assert result["schema"] == 1
    assert len(result["rows"]) == 10
    for row in result["rows"]:
        assert {"kind", "name", "tasks", "target", "precision", "threads", "batch", "scenario", "latency_ms", "throughput",
                "accuracy", "bytes", "parameters", "sha256"} <= set(row)  # fmt: skip
        assert row["tasks"] == ["sea horse", "pets"]
        assert row["images"] == 18
        assert row["latency_ms"]["n"] == sum(len(samples) for samples in row["samples_ms"])
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"]
        assert row["batch"] == (1 if row["scenario"] == "single-stream" else 32)
    assert [row["kind"] for row in result["rows"][::2]] == ["assembly", "assembly", "student", "student", "teacher"]
    accuracies = {(row["name"], row["scenario"]): row["accuracy"] for row in result["rows"]}
    assert accuracies["small", "offline"] == accuracies["small", "single-stream"]
    json.dumps(result)


def test_each_assembly_is_compared_with_every_other_model_in_the_same_setting(result):
    pairs = [(entry["a"], entry["b"], entry["target"], entry["scenario"]) for entry in result["comparisons"]]
    assert len(pairs) == len(set(pairs)) == 6
    for entry in result["comparisons"]:
        assert entry["interval"][0] <= entry["p50_ratio"] <= entry["interval"][1]
        assert entry["accuracy_interval"][0] <= entry["accuracy_difference"] <= entry["accuracy_interval"][1]


def test_a_student_is_masked_to_the_tasks(result, toy, artifacts):
    """Its best case: argmax over the columns of the classes asked for."""
    import numpy as np

    from kfdeploy.benchmark import test_images as images_of
    from kfdeploy.targets.base import Device

    student = artifacts[2]
    classes = ["sea horse", "cat", "dog"]
    data = images_of(student, classes, None)
    with student.session(Device()) as session:
        logits = session.run({"image": data.load()})["logits"]
    own = logits[:, [student.classes.index(name) for name in classes]].argmax(1)
    row = next(row for row in result["rows"] if row["name"] == "small")
    assert row["accuracy"] == pytest.approx(float(np.mean(own == data.labels)))


def test_without_an_assembly_the_common_classes_are_compared(artifacts):
    found = benchmark([artifacts[2].path, artifacts[4].path], quick=True, scenarios=["single-stream"])
    assert found["rows"][0]["images"] == 30
    assert found["comparisons"] == []


def test_what_cannot_be_benchmarked(artifacts, toy, here, tmp_path):
    with pytest.raises(PoolError, match="there are no artifacts here"):
        benchmark()
    with pytest.raises(UnsupportedError, match="there is no scenario 'server'"):
        benchmark([artifacts[0].path], scenarios=["server"])
    from kfdeploy.assemble import assemble
    from kfdeploy.export import export

    other = export(assemble(toy.pool, ["élan", "pets"], tmp_path / "other"), out=tmp_path)
    with pytest.raises(TaskError, match="assembly 'assembly' does not know the class 'élan'"):
        benchmark([artifacts[0].path, other.path], quick=True)


def entry(ratio, low, high):
    return {"a": "A", "b": "B", "target": "onnx", "precision": "fp32", "threads": 1, "scenario": "offline",
            "p50_ratio": ratio, "interval": [low, high], "accuracy_difference": 0.01, "accuracy_interval": [-0.002, 0.02]}  # fmt: skip


def test_faster_is_said_only_if_the_interval_excludes_one():
    said = report.sentences(
        {"quick": True, "comparisons": [entry(0.5, 0.4, 0.6), entry(2.0, 1.8, 2.2), entry(0.9, 0.8, 1.1)]}
    )
    assert "A is 2.00× faster than B" in said[0]
    assert "A is 2.00× slower than B" in said[1]
    assert "A is neither faster nor slower than B" in said[2]
    assert "+1.00 points of accuracy [-0.20, +2.00]" in said[0]
    assert "quick look" in said[3]


def test_tables_and_pictures(result, tmp_path, monkeypatch):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(result))
    text = console.export_text()
    assert "a quick look" in text
    assert "student small" in text
    markdown = report.markdown(result)
    assert markdown.count("\n| ") == 10
    assert "3 alternating rounds of fresh processes; accuracy on 18 test images" in markdown
    report.plot(result, tmp_path / "x" / "p.png")
    from PIL import Image

    with Image.open(tmp_path / "x" / "p.png") as image:
        assert image.width > 800
    import builtins

    whole = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="needs matplotlib"):
        report.plot(result, tmp_path / "q.png")
