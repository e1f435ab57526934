import json

import pytest

from kfdeploy.errors import PoolError
from kfdeploy.measuring.costs import Costs, profile, read_costs, write_costs
from kfdeploy.pool.pool import Pool


def line(**more):
    base = {"pool": "", "machine": "C", "target": "onnx", "precision": "fp32", "threads": 1, "common_ms": 0.2,
            "task_ms": 0.1, "error": 0.05, "points": {"1": 0.3}, "students": {"s": 0.6}, "quick": True}  # fmt: skip
    return Costs(**base | more)


def test_a_line_answers_in_both_directions():
    assert line().of(3) == pytest.approx(0.5)
    assert line().within(0.5) == 3
    assert line().within(0.49) == 2
    assert line().within(0.1) == 0
    assert line().even("s") == pytest.approx(4)
    assert line(task_ms=0.0).within(1) > 1000


def test_a_pools_costs_are_measured_written_and_read(toy, tmp_path):
    pool = Pool.open(toy.pool)
    found = profile(pool, students=[toy.students / "small"], quick=True)
    assert set(found.points) == {"1", "2", "3", "4"}
    assert found.students["small"] > 0
    assert found.error >= 0
    write_costs(tmp_path / "c.json", found)
    assert read_costs(tmp_path / "c.json", pool) == found


def test_costs_of_something_else_are_refused(toy, pool, tmp_path):
    opened = Pool.open(pool)
    place = tmp_path / "c.json"
    with pytest.raises(PoolError, match="there are no costs at") as caught:
        read_costs(place, opened)
    assert "kfdeploy benchmark --profile" in caught.value.hint
    place.write_text("{")
    with pytest.raises(PoolError, match="cannot be read"):
        read_costs(place, opened)
    place.write_text(json.dumps({"schema": 2, "kind": "costs"}))
    with pytest.raises(PoolError, match="holds no costs of schema 1"):
        read_costs(place, opened)
    write_costs(place, line(pool="other"))
    with pytest.raises(PoolError, match="holds the costs of another pool"):
        read_costs(place, opened)
