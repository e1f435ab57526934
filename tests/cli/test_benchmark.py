"""The verb's own part: what it does with a result, however that was measured."""

import json
import sys
from pathlib import Path

import pytest

from kfdeploy.cli import main
from kfdeploy.errors import RemoteError

ROW = {"kind": "assembly", "name": "x", "tasks": ["a", "b"], "target": "onnx", "precision": "fp32", "threads": 1, "batch": 1,
       "scenario": "single-stream", "latency_ms": {"p50": 1.0, "p90": 1.1, "n": 3}, "throughput": 1000.0, "load_ms": 1,
       "first_ms": 1, "accuracy": 0.8, "images": 10, "accuracies": [{"tasks": ["a", "b"], "accuracy": 0.8, "images": 10}],
       "bytes": 10, "parameters": 5, "sha256": "a" * 64, "samples_ms": [[1.0] * 9] * 3, "noise": []}  # fmt: skip
MACHINE = {"cpu": "C", "cores": 2, "os": "Linux", "python": "3.11", "versions": {}}


def result(**more):
    return {"schema": 1, "kind": "benchmark", "quick": False, "protocol": {"rounds": 3}, "machine": MACHINE, "rows": [dict(ROW)],
            "comparisons": [], "answers": [{"tasks": ["a", "b"], "sentence": "x it is."}], "break_even": None} | more  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys, here):
    measured = []

    def fake(artifacts, **asked):
        measured.append(asked)
        return result()

    import importlib

    monkeypatch.setattr(importlib.import_module("kfdeploy.measuring.benchmark"), "benchmark", fake)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["kfdeploy", "benchmark", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        return (code, *capsys.readouterr(), measured)

    return call


def test_the_answer_is_printed_and_a_gate_exits_with_three(run):
    code, out, err, measured = run("--json", "b.json", "--max-ms", "2", "--fail-if", "p50_ms > 0.5", "bytes > 99")
    assert code == 3
    assert "x it is." in out
    assert "p50_ms is 1, and p50_ms > 0.5 fails" in err
    assert measured[0]["max_ms"] == 2
    assert measured[0]["finished"] == Path(".b.json.rounds")
    assert json.loads(Path("b.json").read_text())["rows"][0]["name"] == "x"
    code, out, _, _ = run("--fail-if", "p50_ms > 2")
    assert code == 0


def test_a_baseline_says_what_changed_and_another_machine_is_refused(run):
    Path("old.json").write_text(json.dumps(result()))
    code, out, _, _ = run("--baseline", "old.json")
    assert (code, "nothing changed beyond the noise since the baseline" in out) == (0, True)
    Path("old.json").write_text(json.dumps(result(machine=MACHINE | {"cpu": "D"})))
    code, _, err, _ = run("--baseline", "old.json")
    assert (code, "was measured on 'D', and this is 'C'" in err) == (2, True)
    code, _, err, _ = run("--baseline", "none.json")
    assert (code, "there is no result at 'none.json'" in err) == (1, True)


def test_the_results_of_other_machines_are_added(run):
    Path("device.json").write_text(json.dumps(result(machine=MACHINE | {"cpu": "Cortex"})))
    code, _, err, _ = run("--import", "device.json", "--json", "all.json")
    assert code == 0, err
    found = json.loads(Path("all.json").read_text())
    assert len(found["rows"]) == 2
    assert len(found["machines"]) == 2
    code, _, err, _ = run("--import", "none.json")
    assert code == 1


def test_a_device_is_asked_and_its_finished_rows_are_kept(run, monkeypatch, tmp_path):
    from kfdeploy.measuring import remote

    def fails(url, artifacts, **asked):
        assert (url, asked["python"]) == ("ssh://d", "python3.11")
        raise RemoteError("the connection to d was dropped", hint="again", result=result())

    monkeypatch.setattr(remote, "benchmark_on", fails)
    code, out, err, _ = run("artifact", "--device", "ssh://d", "--python", "python3.11", "--json", "d.json")
    assert (code, "the connection to d was dropped" in err) == (1, True)
    assert "the rows finished before it are in d.json" in out
    assert len(json.loads(Path("d.json").read_text())["rows"]) == 1
    monkeypatch.setattr(remote, "benchmark_on", lambda url, artifacts, **asked: {**result(), "answers": []})
    code, out, _, _ = run("artifact", "--device", "ssh://d")
    assert code == 0
