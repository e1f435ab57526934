import csv
import json
import shutil
from pathlib import Path

import numpy as np

from kfdeploy.measuring.costs import Costs, write_costs
from kfdeploy.pool.pool import Pool


def test_a_pool_is_shown_checked_and_cut(run, toy, here):
    shutil.copytree(toy.pool, "pool")
    code, out, err = run("pool", "show")
    assert code == 0, err
    for word in ("tasks:     4 with 5 classes, joint", "accuracy:", "int8:      calibrated", "for training (train/)"):
        assert word in out
    assert "  pets " in out
    assert "cat, dog" in out
    code, out, err = run("pool", "check")
    assert (code, "every one as it should be" in out) == (0, True), err
    code, out, err = run("pool", "remove", "pool", "--tasks", "pets", "élan", "--out", "small")
    assert code == 0, err
    assert "removed:   pets, élan" in out
    assert "note: train/" in out
    code, out, err = run("pool", "remove", "--tasks", "sea horse,ünï/c")
    assert code == 0, err
    assert [task.name for task in Pool.open("pool").tasks] == ["pets", "élan"]
    code, out, err = run("pool", "merge", "small", "pool", "--out", "merged")
    assert code == 0, err
    assert "next:  kfdeploy assemble --pool merged --tasks 'sea horse' 'ünï/c'" in out
    assert "note" not in out
    code, out, err = run("assemble", "--pool", "merged", "--tasks", "pets", "ünï/c")
    assert code == 0, err
    assert {path.name for path in here.iterdir()} == {"pool", "small", "merged", "assembly"}


def test_what_is_wrong_with_a_pool_is_told_all_of_it(run, pool, here):
    shutil.rmtree(pool / "train")
    code, out, _ = run("pool", "check", pool)
    assert code == 0
    assert "of train/ were left out" in out
    (pool / "common.onnx").unlink()
    (pool / "task.onnx").write_bytes(b"x")
    (pool / "tasks" / "stray").touch()
    code, out, err = run("pool", "check", pool)
    assert code == 1
    assert "note: it does not name tasks/stray" in out
    assert "also wrong:" in out
    assert "common.onnx' is missing (and 1 more, above)" in err
    assert run("pool", "show", "nowhere")[0] == 1
    code, _, err = run("pool", "remove", pool, "--tasks", "pets", "--force")
    assert (code, "--force replaces what is at --out" in err) == (2, True)


def test_a_pool_is_converted_and_the_difference_told(run, toy, here):
    code, _, err = run("pool", "convert", toy.pool, "--out", "half")
    assert (code, "nothing says into what (allowed: --half)" in err) == (2, True)
    code, out, err = run("pool", "convert", toy.pool, "--half", "--out", "half")
    assert code == 0, err
    assert "stored as float16" in out
    assert "accuracy:" in out
    assert "rounded:" in out
    code, out, err = run("assemble", "--pool", "half", "--tasks", "pets", "élan")
    assert code == 0, err
    assert "differs from the pool's rounded networks by" in out
    assert "stored as float16" in run("pool", "show", "half")[1]


def test_every_subset_is_told_or_written(run, toy, here):
    code, out, err = run("plan", "--all", "--pool", toy.pool)
    assert code == 0, err
    assert out.count(" images  ") == 15
    assert "subsets:    15 of 4 tasks, exactly, on validation images\n" in out
    assert run("plan", "--all", "--pool", toy.pool, "--tasks", "pets", "élan")[1].count(" images  ") == 3
    sha = Pool.open(toy.pool).sha256
    costs = Costs(sha, "a machine", "onnx", "fp32", 1, 0.3, 0.1, 0.02, {}, {}, False)
    write_costs(Path("costs.json"), costs)
    for name in ("subsets.csv", "subsets.json"):
        code, out, err = run("plan", "--all", "--pool", toy.pool, "--out", name)
        assert code == 0, err
        assert f"wrote {name}" in out
    rows = list(csv.DictReader(Path("subsets.csv").read_text(encoding="utf-8").splitlines()))
    found = json.loads(Path("subsets.json").read_text(encoding="utf-8"))
    assert (found["kind"], found["pool"]) == ("subsets", sha)
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in found["rows"]]
    assert np.allclose([float(row["ms"]) for row in rows], [0.3 + 0.1 * int(row["size"]) for row in rows])
    assert rows[-1]["tasks"] == "pets 'sea horse' 'élan' 'ünï/c'"
    for words, message in (
        (("--all", "--out", "subsets.csv"), "'subsets.csv' is already there"),
        (("--all", "--out", "subsets.txt"), "--out is 'subsets.txt' (allowed: a .csv file, a .json file)"),
        (("--out", "other.csv"), "--out other.csv is for --all"),
        (
            ("--budget-ms", "0.35"),
            "not one task fits into 0.35 ms; the nearest is one task, which takes about 0.400 ms",
        ),
        (("--budget-ms", "0.55", "--size", "3"), "3 tasks do not fit into the budget; the nearest is 2"),
        (("--budget-ms", "0.45", "--costs", "none.json"), "there are no costs at 'none.json'"),
    ):
        code, _, err = run("plan", "--pool", toy.pool, *words)
        assert code in (1, 2)
        assert message in err
        assert "hint:" in err


def test_what_cannot_be_known_is_not_told(run, assembly, here):
    parts = assembly.path / "parts"
    for words, message in (
        (("--tasks", "pets", "sea horse"), "what pets, sea horse are worth together cannot be known"),
        (("--tasks", "pets"), "what pets is worth cannot be known"),
        (("--all",), "what subsets are worth cannot be known"),
        (("--size", "2"), "what subsets are worth cannot be known"),
    ):
        code, out, err = run("plan", "--pool", parts, *words)
        assert (code, out) == (1, "")
        assert message in err
