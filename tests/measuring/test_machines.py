"""Results of several machines in one: made by hand, as `kfdeploy benchmark` and a kit's bench.py write them."""

import copy
import io
import json

import pytest

from kfdeploy.errors import PoolError
from kfdeploy.measuring.machines import import_result
from kfdeploy.measuring.result import fault
from kfdeploy.report import sentences as report
from kfdeploy.report.picture import plot
from kfdeploy.report.tables import overview


def row(name="a", ms=1.0, accuracy=0.9, **more):
    return {
        "kind": "assembly", "name": name, "tasks": ["cat", "dog"], "target": "onnx", "precision": "fp32", "threads": 1,
        "batch": 1, "scenario": "single-stream", "accuracy": accuracy, "images": 0 if accuracy is None else 40,
        "bytes": 1000, "parameters": 250, "sha256": f"hash of {name}", "latency_ms": {"p50": ms, "p90": ms, "n": 9},
        "throughput": 1000 / ms, "load_ms": 1.0, "first_ms": 1.0, "stable": True, "samples_ms": [[ms] * 3],
    } | more  # fmt: skip


def comparison(a="a", b="s", ratio=0.5):
    return {"a": a, "b": b, "target": "onnx", "precision": "fp32", "threads": 1, "scenario": "single-stream",
            "p50_ratio": ratio, "interval": [ratio - 0.1, ratio + 0.1], "accuracy_difference": 0.01,
            "accuracy_interval": [-0.01, 0.02]}  # fmt: skip


def result(*rows, cpu="Big CPU", comparisons=(), **more):
    machine = {"cpu": cpu, "cores": 4, "os": "Linux x86_64", "python": "3.11.2", "memory_gb": 8.0, "load": [0.1],
               "versions": {"onnxruntime": "1.20"}}  # fmt: skip
    return {"schema": 1, "kind": "benchmark", "quick": False, "protocol": {"rounds": 5}, "machine": machine,
            "rows": list(rows), "comparisons": list(comparisons)} | more  # fmt: skip


OURS = result(row("a"), row("s", 2.0, 0.8), comparisons=[comparison()])
PI = result(row("a", 30.0, None), row("b", 40.0, None), cpu="Small CPU", device="ssh://pi:2222", quick=True)


def test_rows_say_where_they_were_measured_and_are_not_compared_across():
    before = copy.deepcopy((OURS, PI))
    found = import_result(OURS, PI)
    assert before == (OURS, PI)
    assert list(found["machines"]) == ["Big CPU", "pi:2222"]
    assert found["machines"]["pi:2222"]["device"] == "ssh://pi:2222"
    assert [(r["machine"], r["name"]) for r in found["rows"]] == [
        ("Big CPU", "a"), ("Big CPU", "s"), ("pi:2222", "a"), ("pi:2222", "b"),
    ]  # fmt: skip
    assert [r["quick"] for r in found["rows"]] == [False, False, True, True]
    assert found["rows"][2]["versions"] == {"onnxruntime": "1.20"}
    assert found["comparisons"] == [comparison() | {"machine": "Big CPU"}]
    assert (found["schema"], found["kind"], found["quick"]) == (1, "benchmark", True)
    assert found["machine"] == OURS["machine"]
    assert not fault(found)


def test_an_accuracy_is_that_of_the_very_same_file_with_its_tasks():
    subject = row("b", 2.0, 0.7, tasks=["cat"], accuracies=[{"tasks": ["cat"], "accuracy": 0.7, "images": 40}])
    found = import_result(result(row("a"), subject), PI)
    a, b = found["rows"][2:]
    assert (a["accuracy"], a["images"], a["accuracy_from"]) == (0.9, 40, "Big CPU")
    assert (b["accuracy"], b["tasks"], b["accuracies"]) == (0.7, ["cat"], subject["accuracies"])
    assert [note for note in found["notes"] if "is that of the same file on Big CPU" in note]
    other = import_result(result(row("a", sha256="another")), PI)
    assert other["rows"][1]["accuracy"] is None
    assert "accuracy_from" not in other["rows"][1]


def test_its_own_tasks_come_before_others():
    ours = result(row("a", accuracy=0.5, tasks=["cat"], batch=8), row("a"))
    assert import_result(ours, PI)["rows"][2]["accuracy"] == 0.9


def test_of_two_rows_the_newer_is_kept_with_a_note():
    found = import_result(OURS, result(row("a", 5.0)))
    assert [r["latency_ms"]["p50"] for r in found["rows"]] == [5.0, 2.0]
    assert found["notes"] == [
        "assembly a (onnx fp32, single-stream, batch 1, threads 1) on Big CPU was measured twice: the newer is kept"
    ]
    for ours, theirs, kept in (("2026-02-02", "2026-01-01", 1.0), ("2026-01-01", "2026-02-02", 5.0)):
        merged = import_result(result(row("a"), when=ours), result(row("a", 5.0), when=theirs))
        assert [r["latency_ms"]["p50"] for r in merged["rows"]] == [kept]
    assert import_result(OURS, OURS)["notes"] == []  # the same again
    settings = [row("a", threads=2), row("a", batch=2), row("a", scenario="offline"), row("a", sha256="another")]
    assert len(import_result(OURS, result(*settings))["rows"]) == 6


def test_an_older_accuracy_outlives_its_row():
    (found,) = import_result(result(row("a")), result(row("a", 5.0, None)))["rows"]
    assert (found["latency_ms"]["p50"], found["accuracy"]) == (5.0, 0.9)


def unmeasured(name="a"):
    found = row(name, reason="no GPU here")
    return {key: value for key, value in found.items() if key not in ("latency_ms", "throughput", "samples_ms")}


def test_a_measured_row_is_not_given_up_for_one_that_was_not():
    for one, other in ((OURS, result(unmeasured())), (result(unmeasured()), OURS)):
        found = import_result(one, other)
        assert "reason" not in next(r for r in found["rows"] if r["name"] == "a")
        assert not found["notes"]


def test_machines_of_one_make_on_two_addresses_are_two():
    one, other = (result(row("a"), device=f"ssh://{name}") for name in ("pi1", "pi2"))
    found = import_result(import_result(None, one), other)
    assert list(found["machines"]) == ["pi1", "pi2"]
    assert found["notes"] == []
    same = result(row("b"), cpu="Big CPU") | {"machine": OURS["machine"] | {"cores": 2}}
    assert list(import_result(OURS, same)["machines"]) == ["Big CPU", "Big CPU (2)"]


def test_a_merged_result_can_be_merged_again():
    once = import_result(OURS, PI)
    again = import_result(once, PI)
    assert again["rows"][2]["accuracy"] == 0.9
    assert again == import_result(again, []) | {"notes": again["notes"]}
    third = import_result(None, again)
    assert list(third["machines"]) == ["Big CPU", "pi:2222"]
    assert third["rows"] == again["rows"]
    assert len(import_result(again, result(row("a"), cpu="Third"))["rows"]) == 5


def test_files_are_read(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, given in zip(paths, (OURS, PI), strict=True):
        path.write_text(json.dumps(given), encoding="utf-8")
    assert import_result(None, paths) == import_result(OURS, PI)


def refused(change, tmp_path):
    broken = copy.deepcopy(PI)
    change(broken)
    path = tmp_path / "device.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(PoolError) as caught:
        import_result(OURS, [path])
    assert "device.json" in str(caught.value)
    assert "--json" in caught.value.hint or "update kfdeploy" in caught.value.hint
    return str(caught.value)


def test_what_is_no_benchmark_is_refused_by_name(tmp_path):
    def said(change):
        return refused(change, tmp_path)

    assert "has schema 2, and this version of kfdeploy reads schema 1" in said(lambda r: r.update(schema=2))
    assert "describes a 'pool' (allowed: benchmark)" in said(lambda r: r.update(kind="pool"))
    assert "it has no 'machine'" in said(lambda r: r.pop("machine"))
    assert "it has 'yes' as 'quick'" in said(lambda r: r.update(quick="yes"))
    assert "machine '' has no 'versions'" in said(lambda r: r["machine"].pop("versions"))
    assert "its protocol has no 'rounds'" in said(lambda r: r["protocol"].clear())
    assert "row 2 has no 'sha256'" in said(lambda r: r["rows"][1].pop("sha256"))
    assert "row 1 is a int" in said(lambda r: r["rows"].insert(0, 3))
    assert "row 1 has no 'latency_ms'" in said(lambda r: r["rows"][0].pop("latency_ms"))
    assert "row 1, latency_ms has no 'p90'" in said(lambda r: r["rows"][0]["latency_ms"].pop("p90"))
    assert "latencies that are not positive" in said(lambda r: r["rows"][0]["latency_ms"].update(p50=float("nan")))
    assert "row 1 has 90 as 'accuracy'" in said(lambda r: r["rows"][0].update(accuracy=90))
    assert "row 1 has [1] as 'tasks'" in said(lambda r: r["rows"][0].update(tasks=[1]))
    assert "machine 'moon', which is not among" in said(lambda r: r["rows"][0].update(machine="moon"))
    less = {name: value for name, value in comparison().items() if name != "interval"}
    assert "comparison 1 has no 'interval'" in said(lambda r: r["comparisons"].append(less))
    with pytest.raises(PoolError, match="the imported result is no benchmark: it describes a 'pool'"):
        import_result(OURS, PI | {"kind": "pool"})
    with pytest.raises(PoolError, match="the result is no benchmark: it has schema None"):
        import_result({}, PI)
    with pytest.raises(PoolError, match="there is no benchmark to import"):
        import_result(None, [])
    with pytest.raises(PoolError, match=r"there is no benchmark at .*'none.json' is missing"):
        import_result(OURS, [tmp_path / "none.json"])
    (tmp_path / "device.json").write_text("{", encoding="utf-8")
    with pytest.raises(PoolError, match=r"device.json' cannot be read"):
        import_result(OURS, [tmp_path / "device.json"])
    assert fault([]) == "it is a list"


def test_what_reads_a_result_reads_a_merged_one(tmp_path):
    from rich.console import Console

    from kfdeploy.files import dump_line_json

    found = import_result(OURS, PI)
    assert json.loads(dump_line_json(found)) == found
    assert overview(found).rows[2][10] == "90.00 %"
    assert overview(found).rows[3][10] == "not measured"
    assert "a is 2.00× faster than s" in report.sentences(found)[0]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(overview(found).terminal())
    assert "not measured" in console.export_text()
    table = overview(found).markdown()
    assert table.count("\n| ") == 5
    assert table.startswith("| machine | model |")
    assert "| pi:2222 | assembly b |" in table
    assert report.sentences(found)[0].startswith("Big CPU, onnx fp32")
    pytest.importorskip("matplotlib")
    plot(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_each_machine_has_its_own_answer_and_the_page_says_which():
    from kfdeploy.measuring.answer import answer
    from kfdeploy.report.page import page

    ours = result(*(row(n, ms, a, accuracies=[{"tasks": ["cat", "dog"], "accuracy": a, "images": 40}]) for n, ms, a in
                    (("a", 1.0, 0.9), ("s", 2.0, 0.8))))  # fmt: skip
    theirs = result(*(row(n, ms, a, accuracies=[{"tasks": ["cat", "dog"], "accuracy": a, "images": 40}]) for n, ms, a in
                      (("a", 30.0, 0.9), ("s", 20.0, 0.8))), cpu="Small CPU", device="ssh://pi")  # fmt: skip
    found = import_result(ours, theirs)
    found |= answer(found, min_accuracy=0.7)
    assert [(each["tasks"], each["machine"], each["winner"]["name"]) for each in found["answers"]] == [
        (["cat", "dog"], "Big CPU", "a"), (["cat", "dog"], "pi", "s"),
    ]  # fmt: skip
    assert found["answers"][1]["sentence"].startswith("On pi: For cat, dog, at least 70 % accuracy")
    html = page(found)
    assert "Machine: pi" in html
    assert ">machine</th>" in html


def test_what_training_cost_stands_beside(tmp_path):
    one = {"epochs": 8, "images": 45000}
    assert report.training(row(training=one)) == "8 × 45,000 images (its pool)"
    assert report.training(row(kind="student", training=one | {"models": 2})) == "16 × 45,000 images"
    assert report.training(row(kind="student", training={"epochs": 2, "images": 100})) == "2 × 100 images"
    assert report.training(row(kind="teacher")) == "–"
