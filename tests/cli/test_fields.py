"""The verbs on a pool of several fields: each speaks of them."""

import csv
import json
import re

import pytest
from fields import field_pool


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return field_pool(tmp_path_factory.mktemp("fields") / "pool", calibrated=False)


def test_plan_tells_each_field_in_its_own_and_the_mean(run, made, here):
    code, out, err = run("plan", "--pool", made.path, "--tasks", "lit", "pets", "sea horse", "edged")
    assert code == 0, err
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("assembly:"))
    assert "% on average over 3 fields, exactly; calibration error 0." in lines[at]
    assert [line.split(":")[0].strip() for line in lines[at + 1 : at + 4]] == ["lit, at dusk/é", "class", "shape"]
    assert lines[at + 2].endswith("images, among pets, sea horse")
    assert "confusion of the assembly in shape, each row a class:" in lines
    assert "strangers:  --open-set tells them with AUROC" in out
    assert "in shape" in next(line for line in lines if line.startswith("strangers:"))
    code, out, err = run("plan", "--pool", made.path, "--tasks", "lit", "sea horse")
    assert "among sea horse, one class of its field, which is right always\n" in out
    code, out, err = run("plan", "--pool", made.path, "--tasks", "sea horse")
    assert (code, out.strip()) == (0, "sea horse: one class leaves nothing to tell apart")


def test_plan_names_the_worst_mistakes_where_a_table_is_too_large(run, made, here, monkeypatch):
    monkeypatch.setattr("kfdeploy.cli.plan._MOST_ROWS", 4)
    code, out, err = run("plan", "--pool", made.path, "--tasks", "lit", "round", "edged")
    assert code == 0, err
    assert "confusion of the assembly in lit, at dusk/é, each row a class:" in out
    told = out.partition("in shape, of 5 classes those most often taken for another:\n")[2].splitlines()
    assert 0 < len(told) <= 10
    assert all(re.fullmatch(r"  (circle|ellipse|square|heart|star) +[0-9]+ of [0-9]+ for \w+", line) for line in told)
    counts = [int(line.split()[1]) for line in told]
    assert counts == sorted(counts, reverse=True)


def test_plan_chooses_by_the_least_field(run, made, here):
    code, out, err = run("plan", "--pool", made.path, "--size", "3")
    assert code == 0, err
    assert "% on average over its fields," in out
    assert "% in the least of them)" in out
    code, out, err = run("plan", "--pool", made.path, "--min-accuracy", "0.99")
    assert (code, "no subset reaches 99 % in each of its fields; the nearest is" in err) == (1, True)
    code, out, err = run("plan", "--pool", made.path, "--tasks", "lit", "pets", "--min-accuracy", "0.1")
    assert code == 0, err
    assert "choose:     the assembly, not measured," in out
    assert "% in its least field" in out


def test_plan_tells_every_subset_with_its_fields(run, made, here):
    code, out, err = run("plan", "--pool", made.path, "--all")
    assert code == 0, err
    assert "subsets:    31 of 5 tasks" in out
    assert "  least " in out
    for name in ("subsets.json", "subsets.csv"):
        assert run("plan", "--pool", made.path, "--all", "--out", name)[0] == 0
    rows = json.loads((here / "subsets.json").read_text(encoding="utf-8"))["rows"]
    assert set(rows[-1]["fields"]) == {"shape", "lit, at dusk/é", "class"}
    assert rows[-1]["accuracy"] == pytest.approx(sum(rows[-1]["fields"].values()) / 3)
    with (here / "subsets.csv").open(encoding="utf-8", newline="") as stream:
        told = list(csv.DictReader(stream))
    assert [float(told[-1][f"accuracy of {name}"]) for name in rows[-1]["fields"]] == list(rows[-1]["fields"].values())
    assert told[0]["accuracy of class"] == ""


def test_pool_show_tells_the_fields(run, made, here):
    code, out, err = run("pool", "show", made.path)
    assert code == 0, err
    split = "shape (5 classes in 2 tasks, joint), lit, at dusk/é (2 classes), class (3 classes in 2 tasks, joint)"
    assert f"fields:    {split}" in out
    assert "tasks:     5 with 10 classes\n" in out
    assert "% of all tasks together, on average over 3 fields, exactly, on " in out
    assert "           shape: " in out
    assert run("pool", "check", made.path)[0] == 0


def test_pool_remove_and_merge_of_several_fields(run, made, here):
    code, out, err = run("pool", "remove", made.path, "--tasks", "pets", "sea horse", "--out", "rest")
    assert code == 0, err
    code, out, err = run("pool", "remove", made.path, "--tasks", "round", "edged", "lit", "--out", "class")
    assert code == 0, err
    code, out, err = run("pool", "merge", "rest", "class", "--out", "both")
    assert code == 0, err
    assert "of all tasks together, on average over 3 fields, exactly" in out
    code, out, err = run("pool", "show", "rest")
    assert "fields:    shape (5 classes in 2 tasks, joint), lit, at dusk/é (2 classes)\n" in out  # the tasks' alone
    assert run("plan", "--pool", "both", "--tasks", "pets", "edged")[0] == 0
