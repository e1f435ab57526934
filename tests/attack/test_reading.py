"""Mutants of every kind of file that is read: each is refused in words or does no harm; `benchmarks/attack.py` has more."""

import pytest
from victims import KINDS, PICTURES, wrong

MUTANTS = 200  # of each kind


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_read(kind, world, monkeypatch):
    """Else a mutant would be refused for what is wrong with the world that it stands in."""
    folder, name, _, lines = KINDS[kind]
    ends = []
    for line in dict.fromkeys(lines):
        monkeypatch.setitem(KINDS, kind, (folder, name, lambda data, dice: data, (line,)))
        world.mutant(kind, 0)
        ends.append(world.run(line))
    assert "fine" in ends or kind in ("journal",)
    assert set(ends) <= {"fine", "refused"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PICTURES])
def test_no_mutant_gives_a_traceback_or_deceives_or_reaches_out(kind, world):
    assert not wrong(world, kind, MUTANTS)
