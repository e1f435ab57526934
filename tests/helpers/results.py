"""Rows of a benchmark, made by hand."""

BAD = "<script>alert('x')</script>"


def row(kind, name, target="onnx", p50=1.0, accuracy=0.8, **more):
    return {"kind": kind, "name": name, "tasks": ["cat", "dog"], "target": target, "precision": "fp32", "threads": 1,
            "batch": 1, "scenario": "single-stream", "accuracy": accuracy, "images": 2000, "bytes": 1_043_785,
            "parameters": 259_368, "sha256": "ab" * 32, "latency_ms": {"n": 300, "p50": p50, "p90": 1.1 * p50},
            "throughput": 1000 / p50, "load_ms": 40.0, "first_ms": 2.0, "stable": True,
            "samples_ms": [[p50 * (1 + 0.001 * (i % 100)) for i in range(100)] for _ in range(3)], **more}  # fmt: skip


def comparison(b="small", low=0.5, high=0.6, **more):
    return {"a": "assembly", "b": b, "target": "onnx", "precision": "fp32", "threads": 1, "scenario": "single-stream",
            "p50_ratio": (low + high) / 2, "interval": [low, high], "accuracy_difference": -0.04,
            "accuracy_interval": [-0.06, -0.02], **more}  # fmt: skip
