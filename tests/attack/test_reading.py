"""Mutants of every kind of file that is read: each is refused in words or does no harm; `benchmarks/attack.py` has more."""

from pathlib import Path

import pytest
from victims import KINDS, World

MUTANTS = 200  # of each group
GROUPS = {
    "manifests": (
        "pool.json",
        "assembly.json",
        "parts",
        "student.json",
        "manifest",
        "previous",
        "journal",
        "counter",
        "carried",
    ),
    "arrays": ("shared", "evidence", "weights", "student evidence"),
    "graphs": ("common", "template", "graph", "student", "engine"),
    "npz": ("golden",),
    "images": ("image", "photo", "webp", "gif", "tiff", "shard"),
    "updates": ("update",),
    "recipes": ("recipe",),
    "keys": ("key", "public key", "rotation"),
    "results": ("result", "inspection"),
    "costs": ("costs",),
    "ranges": ("ranges",),
    "names": ("names",),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(Path(__file__).parents[1] / "records" / "0.1.0", tmp_path_factory.mktemp("world") / "here")
    yield made
    made.close()


def test_every_kind_is_in_a_group():
    assert sorted(kind for kinds in GROUPS.values() for kind in kinds) == sorted(KINDS)


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
@pytest.mark.parametrize("group", GROUPS)
def test_no_mutant_gives_a_traceback(group, world):
    wrong = []
    kinds = GROUPS[group]
    for number in range(MUTANTS):
        kind = kinds[number % len(kinds)]
        line = world.mutant(kind, number)
        found = world.run(line)
        if found not in ("fine", "refused"):
            wrong.append(f"{kind} {number}, {line}: {found}")
    assert not wrong, "\n".join(wrong[:20])
