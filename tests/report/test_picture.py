"""The benchmark's picture: a panel for each subset of tasks, and nothing that is not measured."""

from PIL import Image

from kfdeploy.report import picture
from kfdeploy.report.picture import plot


def row(name, p50, accuracies, **more):
    return {
        "kind": "assembly", "name": name, "target": "onnx", "threads": 1, "scenario": "single-stream",
        "latency_ms": {"p50": p50, "p90": 1.2 * p50}, "accuracy": None,
        "accuracies": [{"tasks": [*tasks], "accuracy": value, "images": 9} for tasks, value in accuracies.items()],
    } | more  # fmt: skip


def test_each_subset_has_a_panel(tmp_path, monkeypatch):
    drawn = []
    own = picture._panel
    monkeypatch.setattr(
        picture, "_panel", lambda axes, subject, rows, targets: drawn.append((subject, len(rows)))
        or own(axes, subject, rows, targets),
    )  # fmt: skip
    rows = [
        row("two", 1.0, {("a", "b"): 0.9}),
        row("three", 1.5, {("a", "b"): 0.9, ("a", "b", "c"): 0.8}),
        row("lost", 0.1, {("a", "b"): 1.0}, reason="no GPU"),
    ]
    plot({"rows": rows, "quick": False}, tmp_path / "p.png")
    assert drawn == [(("a", "b"), 2), (("a", "b", "c"), 1)]
    with Image.open(tmp_path / "p.png") as drawing:
        assert drawing.width > 1000
    plot({"rows": [], "quick": True}, tmp_path / "none.png")
    assert (tmp_path / "none.png").is_file()
