import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from places import ROOT
from results import BAD, comparison, row

from kfdeploy.errors import DataError, MissingDependencyError, OutputError, PoolError, UsageError
from kfdeploy.report import charts, curves, tables, words
from kfdeploy.report.page import markdown, page, read_inspection, read_result, write_report
from kfdeploy.report.scale import Axis

VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """What a page holds, once its tags are found to be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def points(html):
    return len(re.findall(r'<g class="point ', html))


def test_a_page_is_balanced_and_loads_nothing(rich, inspection):
    text = page(rich, inspection)
    parsed = Parsed(text)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"<script>.*?</script>", "", text, flags=re.S))
    assert "http" not in text.replace("http-equiv", "")
    for tag, attributes in parsed.tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:,")), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in parsed.all("a")} <= set(ids)
    assert len(parsed.all("h1")) == 1
    assert len(parsed.all("caption")) == len(parsed.all("table")) >= 7
    for attributes in parsed.all("g"):
        if "point" in attributes.get("class", ""):
            assert attributes["tabindex"] == "0"
    assert len(text) < 400_000


def test_whatever_comes_from_json_is_escaped(rich, inspection):
    rich["answer"] = BAD
    text = page(rich, inspection)
    assert BAD not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in text
    assert Parsed(text).text.count(BAD) > 10
    assert BAD not in markdown(rich)
    rich["rows"][0]["name"] = "half a \ud83d character, a | and ]("
    assert page(rich).encode()
    assert "half a \\\\ud83d character, a \\| and ]\\(" in markdown(rich)


def test_only_the_pages_own_script_may_run(result):
    import base64
    import hashlib

    text = page(result)
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{expected}'" in text


def test_every_section_is_there_when_its_numbers_are(rich, inspection, result):
    headings = re.findall(r"<h2>(.*?)</h2>", page(rich, inspection))
    assert headings == ["Accuracy over latency", "Results", "Latency, every sample", "Accuracy", "Break-even",
                        "Size and cost", "Stages", "Are the factors factors?", "Environment", "Every number"]  # fmt: skip
    text = Parsed(page(rich, inspection)).text
    assert "A quick look" in text
    assert "not available here" in text
    assert f"no GPU {BAD}" in text
    assert f"{BAD} is faster from 4 tasks on; tiny is faster at none of these sizes." in text
    assert "0.44" in text
    assert "onnxruntime" in text
    for key in ("break_even", "comparisons", "machine", "protocol"):
        del rich[key]
    for each in rich["rows"]:
        for key in ("stages_ms", "samples_ms", "images"):
            each.pop(key, None)
    headings = re.findall(r"<h2>(.*?)</h2>", page(rich))
    assert headings == ["Accuracy over latency", "Results", "Accuracy", "Size and cost", "Every number"]


def test_nothing_that_is_missing_or_odd_breaks_a_page(result):
    whole = result["rows"][0]
    for key in whole:
        for odd in ("gone", None, {}, [], BAD, float("nan"), -1, True):
            changed = {name: value for name, value in whole.items() if name != key}
            if odd != "gone":
                changed[key] = odd
            rows = [changed, result["rows"][2]]
            Parsed(page({**result, "rows": rows}))
            assert markdown({**result, "rows": rows})
    for key in result:
        for odd in (None, {}, [], 3, [None, 3, {}], BAD):
            Parsed(page({**result, key: odd}, {"cka": odd, "factors": odd, "probe": [[odd]], "tasks": odd}))
    Parsed(page({"rows": [{}]}))


def test_rows_without_latency_stand_in_the_table_and_in_no_plot(result):
    before = page(result)
    refused = {"kind": "assembly", "name": "refused", "target": "trt", "precision": "int8", "reason": "no GPU here"}
    result["rows"].append(refused)
    after = page(result)
    assert points(after) == points(before)
    assert "no GPU here" in after
    assert "no GPU here" in markdown(result)


def test_the_answer_says_faster_only_where_the_interval_excludes_one(result):
    assert words.answer(result) == (
        "assembly is 1.82× faster than small, at -4.00 points of accuracy [-6.00, -2.00]; assembly is neither faster "
        "nor slower than teacher, at -4.00 points of accuracy [-6.00, -2.00]."
    )
    result["comparisons"] = [comparison(), comparison(low=0.4, high=0.5), comparison("old", 1.8, 2.2)]
    assert "1.82–2.22× faster than small in all 2 settings" in words.answer(result)
    assert "2.00× slower than old, at" in words.answer(result)
    result["comparisons"] = [comparison(), comparison(low=1.2, high=1.4), comparison(low=0.9, high=1.1)]
    assert "against small, assembly is faster in 1, slower in 1, neither in 1 of 3 settings" in words.answer(result)
    result["comparisons"] = [comparison(str(i), tasks=[f"tasks {i}"]) for i in range(5)]
    assert words.answer(result).startswith("for tasks 0, assembly is")
    assert words.answer(result).endswith("and 2 more pairs, below.")
    result["answers"] = [{"tasks": ["cat"], "sentence": "For cat, this one.", "constraints": {"max_ms": 3}}, None]
    assert words.answer(result) == "For cat, this one."
    assert page(result).count("For cat, this one.") == 2
    result["answer"] = "That one."
    assert words.answer(result) == "That one."
    assert words.answer({}).startswith("Nothing is compared here")


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0.5, 4.0, True), [0.5, 0.7, 1, 2, 3]),
        (Axis(1, 1000, True), [1, 3, 10, 30, 100, 300, 1000]),
        (Axis(0.95, 1.05, True), [0.96, 0.98, 1.0, 1.02, 1.04]),
        (Axis(70, 92), [70, 75, 80, 85, 90]),
    ],
)
def test_axes_are_labelled_with_round_numbers(axis, ticks):
    found = axis.ticks(7)
    assert found == pytest.approx(ticks)
    assert all(-1e-6 <= axis.at(tick) <= 100 + 1e-6 for tick in found)
    assert Axis.around([3.0]).low < 3 < Axis.around([3.0]).high
    assert Axis.around([3.0], log=True).low < 3 < Axis.around([3.0], log=True).high


def test_each_setting_and_each_subject_has_a_plot_of_its_own(result):
    assert charts.pareto(result["rows"]).count("<figure") == 1
    assert charts.pareto([*result["rows"], row("assembly", "many", batch=32, scenario="offline")]).count("<figure") == 2
    scores = [{"tasks": [f"subject {i}", "x"], "accuracy": 0.1 * i, "images": 10} for i in range(5)]
    html = charts.pareto(
        [
            row("student", "small", accuracies=scores),
            row("assembly", "a", accuracies=scores[1:2]),
        ]
    )
    assert (html.count("<figure"), html.count("<h3>"), html.count("<summary>")) == (5, 3, 2)
    assert points(html) == 6
    assert (
        len(set(re.findall(r'path class="mark" d="([^"]*)"', charts.pareto(result["rows"]).partition("<ul")[0]))) == 4
    )


def test_a_histogram_holds_every_sample_and_the_exact_quantiles(result):
    one = result["rows"][0]
    one["samples_ms"][0][0] = 90.0
    html = charts.distributions([one])
    assert "300 samples in 3 rounds, not thinned" in html
    assert "1 are beyond the right edge, up to 90.000 ms" in html
    assert "0.500 · 0.550" in html
    assert html.count('class="dot"') == 3
    assert charts.distributions([row("student", "flat", samples_ms=[1.0, 1.2, 1.1])]).count('class="dot"') == 1
    assert charts.distributions([row("student", "none", samples_ms=[])]) == ""


def test_stages_and_break_even_are_drawn(rich):
    assert points(curves.stages(rich["rows"])) == 10
    assert points(curves.break_even(rich)) == 8
    assert curves.stages([]) == curves.break_even({"break_even": None}) == ""


def test_the_csv_holds_every_number_as_it_is(rich):
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(rich["rows"]))))
    assert len(rows) == 6
    assert rows[0]["latency_ms.p50"] == "0.5"
    assert rows[0]["samples"] == "300"
    assert rows[0]["joules"] == ""
    assert rows[0][f"per_class.{BAD}"] == "0.8"
    assert rows[5]["reason"] == f"no GPU {BAD}"
    assert "latency_ms.p90" in page(rich)


def test_markdown_holds_tables_sentences_and_circumstances(result):
    text = markdown(result)
    assert text.count("\n| ") == 2 * (1 + 1 + 5)
    assert "| assembly | openvino fp32 | single-stream | 1 | 1 | 0.600 |" in text
    assert "other work kept 0.6 processors busy" in text
    assert "3 alternating rounds of fresh processes" in text
    assert "- onnx fp32, single-stream, threads 1: assembly is 1.82× faster than small" in text


def test_what_cannot_be_read(tmp_path):
    place = tmp_path / "b.json"
    for content, error, message in (
        (None, PoolError, "b.json'"),
        ("not JSON", PoolError, "cannot be read"),
        ("[]", PoolError, "list"),
        ('{"schema": 9, "kind": "benchmark"}', PoolError, "9"),
        ('{"schema": 1, "kind": "study", "rows": [{}]}', PoolError, "study"),
        ('{"schema": 1, "kind": "benchmark"}', DataError, "has no rows"),
        ('{"schema": 1, "kind": "benchmark", "rows": [3]}', DataError, "has no rows"),
    ):
        if content is not None:
            place.write_text(content)
        with pytest.raises(error, match=re.escape(message)) as raised:
            read_result(place)
        assert raised.value.hint
    with pytest.raises(PoolError, match="benchmark"):
        read_inspection(place)


def test_written_files_are_whole_and_do_not_replace_others(result, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    places = {"markdown_to": tmp_path / "r.md", "png": tmp_path / "r.png"}
    assert write_report(result, tmp_path / "r.html", **places) == [tmp_path / "r.html", *places.values()]
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page(result)
    assert places["png"].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="already there"):
        write_report(result, tmp_path / "r.html")
    write_report(result, tmp_path / "r.html", force=True)
    with pytest.raises(UsageError, match="two of the files"):
        write_report(result, tmp_path / "r", png=tmp_path / "r")
    result["rows"] = [{"reason": "no"}]
    with pytest.raises(DataError, match="there is no picture"):
        write_report(result, tmp_path / "s.html", png=tmp_path / "s.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        write_report(result, tmp_path / "s.html", png=tmp_path / "s.png")
    assert not (tmp_path / "s.html").exists()


@pytest.fixture
def report(capsys):
    """The verb alone, as the command line would call it."""
    import typer

    from kfdeploy.cli.report import command

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)

    def run(*asked):
        app(list(map(str, asked)), standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_the_verb_reads_and_writes_what_it_is_told(report, result, inspection, here):
    with pytest.raises(PoolError, match="benchmark.json"):
        report()
    Path("benchmark.json").write_text(json.dumps(result), encoding="utf-8")
    Path("inspect.json").write_text(json.dumps(inspection), encoding="utf-8")
    out = report()
    assert out.startswith("assembly is 1.82× faster than small")
    assert "wrote report.html (" in out
    with pytest.raises(OutputError, match=re.escape("'report.html' is already there")):
        report()
    with pytest.raises(UsageError, match="is read, so it cannot be written too"):
        report("--out", "benchmark.json", "--force")
    out = report("benchmark.json", "--inspect", "inspect.json", "--markdown", "a/r.md", "--force")
    assert out.count("wrote ") == 2
    assert "Are the factors factors?" in Path("report.html").read_text(encoding="utf-8")
    with pytest.raises(PoolError, match="benchmark"):
        report("--inspect", "benchmark.json", "--force")


def test_a_real_benchmark_makes_a_small_page():
    results = ROOT / "benchmarks" / "results"
    path = next(iter(sorted(results.glob("*-cat-dog-*.json"))), None)
    if path is None:
        pytest.skip("no recorded result here")
    text = page(read_result(path))
    Parsed(text)
    assert len(text) < 400_000
