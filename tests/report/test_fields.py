"""What the report says of models of several fields."""

import pytest
from results import BAD, comparison, row

from kfdeploy.report import charts, sentences, tables, words
from kfdeploy.report.page import markdown, page
from kfdeploy.report.picture import plot


def scored(name, kind, means, p50=1.0):
    fields = [{"field": f, "accuracy": value, "images": 500 + 100 * i} for i, (f, value) in enumerate(means.items())]
    mean = sum(means.values()) / len(means)
    about = {"accuracy": mean, "images": 900, "fields": fields}
    return row(kind, name, p50=p50) | about | {"accuracies": [{"tasks": ["cat", "dog"], **about}]}


@pytest.fixture
def several(result):
    result["rows"] = [
        scored("assembly", "assembly", {"shape": 0.9, BAD: 0.7}, 0.5),
        scored("small", "student", {"shape": 0.95, BAD: 0.6}),
        row("teacher", "teacher", p50=3.0, accuracy=None, accuracies=[]),
    ]
    each = [
        {"field": "shape", "accuracy_difference": -0.05, "accuracy_interval": [-0.07, -0.03]},
        {"field": BAD, "accuracy_difference": 0.1, "accuracy_interval": [0.08, 0.12]},
    ]
    result["comparisons"] = [comparison(fields=each, tasks=["cat", "dog"])]
    return result


def test_tables_have_a_column_a_field(several):
    for table in (tables.overview(several), tables.results(several["rows"])):
        head = list(table.head)
        at = head.index("accuracy")
        assert head[at + 1 : at + 3] == ["in shape", f"in {BAD}"]
        assert [cells[at : at + 3] for cells in table.rows][:2] == [
            ["80.00 %", "90.00 %", "70.00 %"], ["77.50 %", "95.00 %", "60.00 %"],
        ]  # fmt: skip
        assert list(table.rows[2][at + 1 : at + 3]) == ["–", "–"]
    names, values = tables.raw(several["rows"])
    assert values[0]["accuracy in shape"] == 0.9
    assert values[0]["images in shape"] == 500
    assert "fields" not in names


def test_sentences_tell_each_field_and_the_mean(several):
    said = sentences.sentences(several)[0]
    assert "points of accuracy [-6.00, -2.00] on average over 2 fields: shape -5.00 [-7.00, -3.00], " in said
    assert f"{BAD} +10.00 [+8.00, +12.00]" in said
    assert said == words.sentences(several)[0]
    assert words.answer(several).endswith("on average over its fields, -5.00 in shape.")
    assert "accuracy 80.00 % on average over 2 fields of 900 images\n  shape: 90.00 %" in words.about(
        several["rows"][0]
    )


def test_a_page_speaks_of_fields_and_escapes_their_names(several, tmp_path):
    text = page(several)
    assert BAD not in text
    assert "Accuracy of each model, mean of 2 fields, with the 95 % interval" in text
    assert "Accuracy of each model in shape, with the 95 % interval" in text
    assert "accuracy, mean of the fields, %" in text
    assert "| in shape |" in markdown(several)
    plot(several | {"rows": several["rows"][:2]}, tmp_path / "p.png")


def test_what_is_no_field_is_left_out(result):
    for odd in ([], "x", [7], [{"field": "shape"}], [{"field": "shape", "accuracy": "high"}], {"shape": 1}):
        result["rows"][0]["fields"] = odd
        result["comparisons"] = [comparison(fields=odd)]
        assert words.field_names(result["rows"]) == []
        assert "on average over" not in page(result)
    assert "mean of" not in charts.accuracies(result["rows"])
