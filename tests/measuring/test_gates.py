import copy
import json

import numpy as np
import pytest

from kfdeploy.errors import GateError, PoolError, UnsupportedError
from kfdeploy.measuring.answer import answer
from kfdeploy.measuring.gates import changes, check, parse
from kfdeploy.measuring.result import fault, read_result

BASE = {"kind": "assembly", "name": "x", "tasks": ["a"], "target": "onnx", "precision": "fp32", "threads": 1, "batch": 1,
        "scenario": "single-stream", "parameters": 9, "sha256": "0"}  # fmt: skip
MACHINE = {"cpu": "C", "cores": 2, "os": "O", "python": "3", "versions": {}}


def result():
    draw = np.random.default_rng(0)
    samples = [draw.normal(1, 0.01, 200).tolist() for _ in range(5)]
    row = BASE | {"latency_ms": {"p50": 1.0, "p90": 1.1}, "accuracy": 0.8, "images": 100, "bytes": 1000, "load_ms": 5, "throughput": 1000.0,
                  "first_ms": 2, "peak_mib": None, "samples_ms": samples}  # fmt: skip
    pair = {"a": "x", "b": "s", "b_kind": "student", "target": "onnx", "precision": "fp32", "threads": 1,
            "scenario": "single-stream", "p50_ratio": 1.2, "interval": [1.1, 1.3], "accuracy_difference": -0.02,
            "accuracy_interval": [-0.03, -0.01]}  # fmt: skip
    return {"schema": 1, "kind": "benchmark", "quick": False, "rows": [row],
            "machine": MACHINE,
            "protocol": {"rounds": 5},
            "comparisons": [pair, pair | {"b": "teacher", "b_kind": "teacher", "p50_ratio": 9.0}]}  # fmt: skip


def test_gates_are_read_and_slips_are_named():
    assert parse(["p50_ratio > 1.0", "bytes>=1e6"]) == [("p50_ratio", ">", 1.0), ("bytes", ">=", 1e6)]
    with pytest.raises(UnsupportedError, match="the gate 'p50_ratio' cannot be read") as caught:
        parse(["p50_ratio"])
    assert '--fail-if "p50_ratio > 1.0"' in caught.value.hint
    with pytest.raises(UnsupportedError, match="is about 'p50_rato'") as caught:
        parse(["p50_rato > 1"])
    assert caught.value.hint == "did you mean 'p50_ratio'?"


def test_a_gate_is_held_against_students_and_assemblies():
    assert check(result(), parse(["p50_ratio > 1.3", "accuracy < 0.7", "accuracy_drop > 0.03"])) == []
    failed = check(result(), parse(["p50_ratio > 1.0", "accuracy_drop > 0.01", "bytes > 999"]))
    assert len(failed) == 3
    assert failed[0].startswith("x against s, onnx fp32, single-stream, threads 1: p50_ratio is 1.2")
    with pytest.raises(UnsupportedError, match=r"'peak_mib > 1' has nothing to be held against"):
        check(result(), parse(["peak_mib > 1"]))
    assert GateError("x").exit_code == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("sign", ["<", ">"])
def test_what_is_not_finite_passes_no_gate(value, sign):
    found = result()
    found["rows"][0]["accuracy"] = found["comparisons"][0]["p50_ratio"] = value
    failed = check(found, parse([f"accuracy {sign} 0.5", f"p50_ratio {sign} 1"]))
    assert failed == [f"x: {name} is {value}, which is no finite number" for name in ("accuracy", "p50_ratio")]
    assert fault(found | {"protocol": {"rounds": 1}})


@pytest.mark.parametrize("number", ["1e999", "-1e999", "nan", "inf", ".", "1.2.3"])
def test_a_gate_s_number_is_one(number):
    with pytest.raises(UnsupportedError, match=r"the gate .* cannot be read"):
        parse([f"accuracy > {number}"])


def test_a_constraint_that_everything_meets_is_none():
    for name in ("max_ms", "max_mb", "min_accuracy"):
        with pytest.raises(UnsupportedError, match=f"--{name.replace('_', '-')} is nan"):
            answer(result(), **{name: float("nan")})


def test_what_changed_beyond_the_noise():
    old = result()
    assert changes(result(), old) == []
    new = result()
    row = new["rows"][0]
    row["samples_ms"] = [[2 * s for s in samples] for samples in row["samples_ms"]]
    row["latency_ms"] = {"p50": 2.0}
    row["accuracy"], row["bytes"] = 0.81, 900
    found = changes(new, old)
    assert "2.00× slower (p50 1.000 → 2.000 ms" in found[0]
    assert found[1].endswith("+1.00 points of accuracy on 100 images")
    assert found[2].endswith("900 bytes, before 1,000")
    extra = copy.deepcopy(old)
    extra["rows"].append(BASE | {"name": "y", "reason": "no GPU", "images": 1, "bytes": 1, "accuracy": None})
    assert changes(extra, old) == ["y, onnx fp32, single-stream, threads 1: not in the baseline"]
    assert changes(old, extra) == ["y, onnx fp32, single-stream: no longer measured"]


def test_what_cannot_be_compared_is_refused_by_name(tmp_path):
    other = result() | {"machine": MACHINE | {"cpu": "D"}}
    with pytest.raises(UnsupportedError, match="the baseline was measured on 'D', and this is 'C'"):
        changes(result(), other)
    with pytest.raises(UnsupportedError, match="a quick look is not compared with a whole benchmark"):
        changes(result(), result() | {"quick": True})
    with pytest.raises(PoolError, match="there is no result at"):
        read_result(tmp_path / "none.json")
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(PoolError, match="cannot be read"):
        read_result(path)
    for wrong in ({"schema": 2, "kind": "benchmark"}, {"schema": 1, "kind": "study"}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(PoolError, match="not 1 and 'benchmark'"):
            read_result(path)
    path.write_text(json.dumps(result()))
    assert read_result(path)["rows"]
