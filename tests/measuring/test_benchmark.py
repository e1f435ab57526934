import io
import json
import sys

import pytest

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.errors import DataError, KfdeployError, MissingDependencyError, PoolError, UnsupportedError
from kfdeploy.measuring.benchmark import benchmark
from kfdeploy.measuring.result import scores
from kfdeploy.report import sentences as report
from kfdeploy.report.picture import plot
from kfdeploy.report.tables import overview


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

    from kfdeploy.data.splits import test_images as images_of
    from kfdeploy.targets.base import Setup

    student = artifacts[2]
    classes = ["sea horse", "cat", "dog"]
    data = images_of(student.data, student.image, classes, None)
    with student.session(Setup()) as session:
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
    fixed = export(assemble(toy.pool, ["pets"], tmp_path / "fixed"), batch=4, out=tmp_path)
    with pytest.raises(UnsupportedError, match="it has the fixed batch 4, and single-stream needs 1"):
        benchmark([fixed.path], scenarios=["single-stream"])
    with pytest.raises(DataError, match="does not exist|there is no"):
        benchmark([artifacts[0].path], data=tmp_path / "none")


def test_several_subsets_at_once_each_have_their_own_accuracy(artifacts, toy, tmp_path):
    other = export(assemble(toy.pool, ["élan", "pets"], tmp_path / "other"), out=tmp_path)
    found = benchmark([artifacts[0].path, other.path, artifacts[2].path], quick=True, scenarios=["single-stream"])
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["other"]["tasks"] == ["élan", "pets"]
    assert set(scores(rows["small"])) == {("sea horse", "pets"), ("élan", "pets")}
    assert set(scores(rows["other"])) == {("élan", "pets")}
    assert {(c["a"], *c["tasks"]) for c in found["comparisons"]} == {
        ("assembly", "sea horse", "pets"), ("other", "élan", "pets"),
    }  # fmt: skip
    assert {tuple(entry["tasks"]) for entry in found["answers"]} == {("sea horse", "pets"), ("élan", "pets")}


def test_what_cannot_be_measured_stays_with_its_reason(artifacts, toy, tmp_path):
    fixed = export(artifacts_model(toy), batch=4, out=tmp_path)
    found = benchmark([artifacts[0].path, fixed.path], quick=True, batch=4)
    rows = {(row["name"], row["scenario"]): row for row in found["rows"]}
    assert "the fixed batch 4" in rows["small", "single-stream"]["reason"]
    assert "reason" not in rows["small", "offline"]
    assert "not measured: small, onnx fp32, single-stream" in "\n".join(report.sentences(found))
    assert "–" in overview(found).markdown()
    json.dumps(found)


def artifacts_model(toy):
    from kfdeploy.deploy.model import Model

    return Model.open(toy.students / "small")


def test_an_interrupted_benchmark_goes_on_from_its_finished_rounds(artifacts, tmp_path, monkeypatch):
    from kfdeploy import benchmark as function

    assert callable(function)
    module = sys.modules["kfdeploy.measuring.benchmark"]
    place, whole, calls = tmp_path / ".b.json.rounds", module.measure_afresh, []

    def dies(job, protocol):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(job, protocol)

    monkeypatch.setattr(module, "measure_afresh", dies)
    paths = [artifacts[0].path, artifacts[2].path]
    with pytest.raises(KeyboardInterrupt):
        benchmark(paths, quick=True, scenarios=["single-stream"], finished=place)
    found = benchmark(paths, quick=True, scenarios=["single-stream"], finished=place)
    assert len(calls) == 3 + 6 - 2
    assert all(len(row["samples_ms"]) == 3 for row in found["rows"])
    place.write_text("damaged")
    calls[:] = [None] * 9
    benchmark(paths, quick=True, scenarios=["single-stream"], finished=place)
    assert len(calls) == 15


def test_a_job_that_fails_leaves_the_others(artifacts, tmp_path, monkeypatch):
    module = sys.modules["kfdeploy.measuring.benchmark"]
    whole = module.measure_afresh

    def fails(job, protocol):
        if "small" in job.artifact:
            raise KfdeployError("measuring it failed: no memory")
        return whole(job, protocol)

    monkeypatch.setattr(module, "measure_afresh", fails)
    found = benchmark([artifacts[0].path, artifacts[2].path], quick=True, scenarios=["single-stream"])
    assert [row.get("reason") for row in found["rows"]] == [None, "measuring it failed: no memory"]
    assert found["comparisons"] == []


def test_a_row_says_what_it_was_measured_on(result):
    for row in result["rows"]:
        assert row["cores"]
        assert set(row["stages_ms"]) == {"decode", "preprocess", "infer"}
        assert row["training"] is None or row["training"]["epochs"] == 4
        assert isinstance(row["noise"], list)
        assert row["joules"] is None or row["joules"] > 0


def entry(ratio, low, high):
    return {"a": "A", "b": "B", "target": "onnx", "precision": "fp32", "threads": 1, "scenario": "offline",
            "p50_ratio": ratio, "interval": [low, high], "accuracy_difference": 0.01, "accuracy_interval": [-0.002, 0.02]}  # fmt: skip


def test_faster_is_said_only_if_the_interval_excludes_one():
    said = report.sentences(
        {"quick": True, "rows": [], "comparisons": [entry(0.5, 0.4, 0.6), entry(2.0, 1.8, 2.2), entry(0.9, 0.8, 1.1)]}
    )
    assert "A is 2.00× faster than B" in said[0]
    assert "A is 2.00× slower than B" in said[1]
    assert "A is neither faster nor slower than B" in said[2]
    assert "+1.00 points of accuracy [-0.20, +2.00]" in said[0]
    assert "quick look" in said[3]


def test_tables_and_pictures(result, tmp_path, monkeypatch):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(overview(result).terminal())
    text = console.export_text()
    assert "a quick look" in text
    assert "student small" in text
    markdown = overview(result).markdown()
    assert markdown.count("\n| ") == 11  # the line below the head, and ten rows
    assert "3 alternating rounds of fresh processes; accuracy on 18 test images" in report.circumstances(result)
    plot(result, tmp_path / "x" / "p.png")
    from PIL import Image

    with Image.open(tmp_path / "x" / "p.png") as image:
        assert image.width > 800
    import builtins

    whole = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name, name="matplotlib")
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="needs matplotlib"):
        plot(result, tmp_path / "q.png")
