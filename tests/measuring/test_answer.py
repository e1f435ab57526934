import pytest

from kfdeploy.measuring.answer import answer, break_even, front


def row(kind, name, p50, accuracy, size=1e6, tasks=("a", "b"), **more):
    base = {"target": "onnx", "precision": "fp32", "threads": 1, "scenario": "single-stream", "batch": 1}
    subjects, images = more.pop("subjects", [tasks]), more.pop("images", 100_000)
    return base | {
        "kind": kind, "name": name, "tasks": list(tasks), "latency_ms": {"p50": p50}, "bytes": size,
        "accuracies": [{"tasks": list(s), "accuracy": accuracy, "images": images} for s in subjects],
    } | more  # fmt: skip


def pair(a, b, low, high, points):
    return {"a": a, "b": b, "b_kind": "student", "tasks": ["a", "b"], "target": "onnx", "precision": "fp32", "threads": 1,
            "scenario": "single-stream", "interval": [low, high], "accuracy_interval": [points, points]}  # fmt: skip


ROWS = [row("assembly", "x", 1.0, 0.80), row("student", "s", 2.0, 0.85, 2e6), row("student", "slow", 3.0, 0.84)]


def asked(comparisons=(), **limits):
    return answer({"rows": ROWS, "comparisons": list(comparisons)}, **limits)["answers"][0]


def test_the_front_leaves_out_what_is_beaten_in_both():
    assert front([(2, 80), (1, 70), (3, 80), (1, 60), (4, 90), (4, 90)]) == [1, 0, 4]
    assert front([]) == []
    found = asked()
    assert found["winner"] is None
    assert [r["name"] for r in found["front"]] == ["x", "s"]
    assert "assembly x (onnx fp32), 1.000 ms, 80.00 %" in found["sentence"]


def test_the_winner_under_each_constraint():
    assert asked(min_accuracy=0.82)["winner"]["name"] == "s"
    assert asked(min_accuracy=0.5)["winner"]["name"] == "x"
    assert asked(max_ms=1.5)["winner"]["name"] == "x"
    assert asked(max_ms=9)["winner"]["name"] == "s"
    assert asked(max_ms=9, max_mb=1.5)["winner"]["name"] == "slow"
    assert "at least 82 % accuracy" in asked(min_accuracy=0.82)["sentence"]
    nothing = asked(min_accuracy=0.9, max_ms=1.0)
    assert nothing["winner"] is None
    assert "nothing has at most 1 ms and at least 90 % accuracy; the nearest is assembly x" in nothing["sentence"]


def test_of_equally_accurate_ones_the_fastest_wins_then_the_smallest():
    """A superset has its subset's accuracy within the interval, and is slower and larger."""
    rows = [
        row("assembly", "three", 1.5, 0.951, 3e6, images=1000),
        row("assembly", "two", 1.0, 0.950, 2e6, images=1000),
        row("assembly", "two-int8", 1.01, 0.949, 1e6, images=1000),
        row("student", "far", 0.5, 0.80, 1e6, images=1000),
    ]
    found = answer({"rows": rows, "comparisons": []}, max_ms=9)["answers"][0]
    assert found["winner"]["name"] == "two-int8"
    assert "(as accurate, within its 95 % interval, as assembly three (onnx fp32), 1.500 ms" in found["sentence"]
    rows[0]["accuracies"][0]["images"] = rows[1]["accuracies"][0]["images"] = rows[2]["accuracies"][0]["images"] = None
    assert answer({"rows": rows, "comparisons": []}, max_ms=9)["answers"][0]["winner"]["name"] == "three"


def test_as_accurate_is_said_only_with_its_statistic():
    assert "faster than, and as accurate as, s" in asked([pair("x", "s", 0.4, 0.6, -0.002)])["sentence"]
    for doubtful in (pair("x", "s", 0.4, 1.1, 0.0), pair("x", "s", 0.4, 0.6, -0.004)):
        assert "as accurate as, s" not in asked([doubtful])["sentence"]


def test_rows_that_were_not_measured_take_no_part():
    rows = [*ROWS, row("student", "lost", 0.1, 0.99, reason="no GPU")]
    assert answer({"rows": rows, "comparisons": []}, min_accuracy=0.5)["answers"][0]["winner"]["name"] == "x"
    assert answer({"rows": [], "comparisons": []}) == {"answers": [], "break_even": None}


def test_the_break_even_is_where_the_interval_lies_above_one():
    rows = [row("assembly", f"k{k}", float(k), 0.8, tasks=[str(i) for i in range(k)]) for k in (2, 4, 6)]
    rows.append(row("student", "s", 3.5, 0.8))
    pairs = [pair(f"k{k}", "s", k / 3.5 - d, k / 3.5 + d, 0) for k, d in ((2, 0.1), (4, 0.2), (6, 0.1))]
    found = break_even(rows, pairs)
    assert found == {"sizes": [2, 4, 6], "models": {"assembly": [2.0, 4.0, 6.0], "s": [3.5] * 3}, "k": {"s": 6}}
    assert break_even(rows[:1] + rows[3:], pairs) is None
    assert break_even(rows[3:], pairs) is None
    assert break_even(rows[:2] + rows[3:], pairs[:1])["k"] == {"s": None}


def test_several_subjects_have_an_answer_each():
    rows = [row("assembly", "x", 1, 0.8), row("assembly", "y", 2, 0.7, tasks=("c", "d")),
            row("student", "s", 3, 0.9, subjects=[("a", "b"), ("c", "d")])]  # fmt: skip
    found = answer({"rows": rows, "comparisons": []}, min_accuracy=0.75)["answers"]
    assert [(entry["tasks"], entry["winner"]["name"]) for entry in found] == [(["a", "b"], "x"), (["c", "d"], "s")]
    assert found[1]["sentence"].startswith("For c, d, at least 75 % accuracy: student s")
    assert pytest.approx(0.75) == found[0]["constraints"]["min_accuracy"]


def test_a_comma_in_a_name_does_not_make_two_subjects_one():
    rows = [
        row("assembly", "x", 1, 0.8, tasks=("cats, big", "dogs")),
        row("assembly", "y", 2, 0.7, tasks=("cats", "big, dogs")),
    ]
    found = answer({"rows": rows, "comparisons": []}, max_ms=9)["answers"]
    assert [(entry["tasks"], entry["winner"]["name"]) for entry in found] == [
        (["cats, big", "dogs"], "x"), (["cats", "big, dogs"], "y"),
    ]  # fmt: skip
