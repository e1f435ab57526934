import shutil

import numpy as np
import pytest

from kfdeploy import targets
from kfdeploy.deploy.export import export
from kfdeploy.errors import ComposeError, DataError, OutputError, UnsupportedError
from kfdeploy.measuring import fastest as choose
from kfdeploy.measuring.fastest import _judge, alternate, export_fastest


def row(precision, ratio, interval, drop, **more):
    return {"precision": precision, "p50_ms": ratio, "p50_ratio": ratio, "interval": interval, "drop": drop} | more


def test_the_fastest_that_passes_is_kept_and_every_other_says_why_not():
    rows = [
        row("fp32", 1.0, [1.0, 1.0], 0.0),
        row("fp16", 0.9, [0.8, 0.95], 0.001),
        row("int8", 0.5, [0.4, 0.6], 0.02),
        {"precision": "int4", "why": "it cannot be had"},
    ]
    assert _judge(rows, 0.01) == "fp16"
    assert [r["why"] for r in rows] == [
        "not the fastest", "kept", "loses 2.00 points, and 1.00 are allowed", "it cannot be had",
    ]  # fmt: skip
    assert _judge([row("fp32", 1.0, [1.0, 1.0], 0.0), row("int8", 0.97, [0.9, 1.05], 0.0)], 0.01) == "fp32"


def test_where_it_is_too_noisy_nothing_is_chosen():
    rows = [row("fp32", 1.0, [1.0, 1.0], 0.0, noise=0.1), row("int8", 0.5, [0.4, 0.6], 0.0, noise=0.8)]
    assert _judge(rows, 0.01) == "fp32"
    assert [r["why"] for r in rows] == ["kept, as the timings are too noisy to choose by", "too noisy to choose"]
    assert choose._noise([np.array([1.0, 1.0]), np.array([1.5])]) == 0.5


def test_auto_goes_on_where_one_precision_cannot_be_made_or_measured(assembly, tmp_path, monkeypatch):
    own, measured = choose._in_form, choose.measure_afresh
    rounds = []

    def make(model, module, precision, *given, **settings):
        if precision == "fp16":
            raise ComposeError("fp16 cannot be made")
        return own(model, module, precision, *given, **settings)

    def measure(job, protocol):
        rounds.append(job.artifact)
        if "int8" in job.artifact:
            raise UnsupportedError("int8 crashed here")
        found = measured(job, protocol)
        found.samples = [value * (1 + len(rounds)) for value in found.samples]  # and a machine that slows down
        return found

    monkeypatch.setattr(choose, "_in_form", make)
    monkeypatch.setattr(choose, "measure_afresh", measure)
    said = []
    artifact, rows = export_fastest(assembly, "onnx", out=tmp_path, report=said.append)
    why = {r["precision"]: r["why"] for r in rows}
    assert artifact.precision == "fp32"
    assert why["fp16"] == "fp16 cannot be made"
    assert why["int8"] == "int8 crashed here"
    assert why["fp32"].startswith("kept")
    assert any(line.startswith("noise: fp32 varies by") for line in said)
    assert any("once more" in line for line in said)


def test_candidates_alternate_and_the_first_round_is_thrown_away():
    calls = []
    found = alternate({n: lambda n=n: calls.append(n) or [float(len(calls))] for n in ("a", "b")}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3}
    assert min(found["a"] + found["b"]) > 2


def test_auto_builds_all_measures_all_and_keeps_one(assembly, tmp_path, monkeypatch):
    said = []
    artifact, rows = export_fastest(assembly, "onnx", out=tmp_path, max_drop=0.9, report=said.append)
    assert [r["precision"] for r in rows] == ["fp32", "fp16", "int8"]
    assert [r["why"].startswith("kept") for r in rows].count(True) == 1
    assert [path.name for path in tmp_path.iterdir()] == [artifact.path.name]
    artifact.check()
    assert artifact.manifest["auto"]["rows"] == rows
    assert all(r["images"] == rows[0]["images"] > 0 for r in rows)
    assert any("int8: round 3 of 3" in line for line in said)
    with pytest.raises(OutputError, match="is already there"):
        export_fastest(assembly, "onnx", out=tmp_path)


def test_auto_says_what_it_needs(assembly, tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match="--max-drop is 2"):
        export_fastest(assembly, "onnx", max_drop=2, out=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError):
        export_fastest(assembly, "onnx", data=tmp_path / "none", out=tmp_path)
    module = targets.load("onnx")
    monkeypatch.setattr(module, "can_run", lambda: "this machine is a toaster", raising=False)
    with pytest.raises(UnsupportedError, match="--precision auto measures, and this machine is a toaster"):
        export_fastest(assembly, "onnx", out=tmp_path)
    with pytest.raises(UnsupportedError, match="--fuse auto measures, and this machine is a toaster"):
        export_fastest(assembly, "onnx", precision="fp32", out=tmp_path)


def test_bank_or_branches_is_measured_and_both_are_on_record(assembly, tmp_path, monkeypatch):
    artifact, rows = export_fastest(assembly, "onnx", precision="fp32", out=tmp_path)
    assert rows == []
    found = artifact.manifest["fuse"]
    assert set(found["p50_ms"]) == {"bank", "branches"}
    assert found["form"] == min(found["p50_ms"], key=found["p50_ms"].get)
    monkeypatch.setattr(choose, "alternate", lambda c: {name: [1.0 + (name == "bank")] for name in c})
    chosen, _ = export_fastest(assembly, "onnx", precision="fp32", out=tmp_path / "b")
    assert chosen.manifest["fuse"]["form"] == "branches"
    with pytest.raises(UnsupportedError, match="--fuse is 'auto'") as caught:  # exporting measures nothing
        export(assembly, "onnx", fuse="auto", out=tmp_path / "d")
    assert "export_fastest" in caught.value.hint
    fixed = export(assembly, "onnx", fuse="branches", precision="int8", out=tmp_path / "c")
    assert fixed.manifest["fuse"] == {"form": "branches", "p50_ms": {}}
    assert np.isfinite(fixed.manifest["verify"]["difference"])


def test_a_student_is_neither_bank_nor_branches(toy, tmp_path):
    shutil.copytree(toy.students / "small", tmp_path / "small")
    with pytest.raises(UnsupportedError, match="it is neither a bank nor branches"):
        export(tmp_path / "small", "onnx", fuse="bank", out=tmp_path)
    assert export_fastest(tmp_path / "small", "onnx", precision="fp32", out=tmp_path)[0].manifest["fuse"] is None
