"""Mutants of every kind of file that is read: each is refused in words, or does no harm. `benchmarks/attack.py` has more."""

from pathlib import Path

import pytest
from victims import KINDS, World

MUTANTS = 200


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(Path(__file__).parents[1] / "records" / "0.1.0", tmp_path_factory.mktemp("world") / "here")
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_no_mutant_gives_a_traceback(kind, world):
    wrong = []
    for number in range(MUTANTS):
        line = world.mutant(kind, number)
        found = world.run(line)
        if found not in ("fine", "refused"):
            wrong.append(f"{kind} {number}, {line}: {found}")
    assert not wrong, "\n".join(wrong[:20])
