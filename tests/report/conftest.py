"""A benchmark and an inspection, made by hand."""

import pytest
from results import BAD, comparison, row


@pytest.fixture
def result():
    return {
        "schema": 1, "kind": "benchmark", "quick": False, "protocol": {"rounds": 3, "runs": 100},
        "machine": {"cpu": "a processor", "cores": 2, "load": [0.1, 0.2], "versions": {"onnxruntime": "1.31.1"}},
        "rows": [
            row("assembly", "assembly", p50=0.5),
            row("assembly", "assembly", "openvino", p50=0.6, noise=["other work kept 0.6 processors busy"]),
            row("student", "small", p50=0.9, accuracy=0.84),
            row("teacher", "teacher", p50=3.0, accuracy=0.91),
            row("pruned", "thin", p50=0.7, accuracy=0.7),
        ],
        "comparisons": [comparison(), comparison("teacher", 0.9, 1.1)],
    }  # fmt: skip


@pytest.fixture
def inspection():
    return {"schema": 1, "kind": "inspection", "factors": ["common network", BAD, "dog"], "tasks": [BAD, "dog"],
            "cka": [[1.0, 0.58, 0.63], [0.58, 1.0, 0.44], [0.63, 0.44, 1.0]],
            "probe": [[0.81, 0.82], [0.9, 0.61], [0.62, 0.93]], "calibration": {"subsets": 1, "error": 0.02}}  # fmt: skip


@pytest.fixture
def rich(result, inspection):
    """A result with everything optional in it, and with names that want to be markup."""
    for i, each in enumerate(result["rows"]):
        each |= {"per_class": {BAD: 0.8, "dog": 0.9}, "stages_ms": {"decode": 0.2, "infer": each["latency_ms"]["p50"]},
                 "peak_mib": 60.5 + i, "joules": None, "mhz": [2000, 2500], "tasks": [BAD, "dog"]}  # fmt: skip
    refused = {"kind": "assembly", "name": BAD, "target": "trt", "precision": "int8", "scenario": "offline",
               "threads": 1, "batch": 32, "tasks": [BAD, "dog"], "reason": f"no GPU {BAD}"}  # fmt: skip
    result["rows"].append(refused)
    result["break_even"] = {
        "sizes": [1, 2, 4],
        "models": {"assembly": [0.5, 0.7, 1.1], BAD: [0.9, 0.9, 0.9], "tiny": [0.2, None, 0.2]},
        "k": {BAD: 4, "tiny": None},
    }
    result["machine"]["governor"] = BAD
    result["quick"] = True
    return result
