"""Mutants of pictures and of what people write: the other half of `test_reading`."""

from pathlib import Path

import pytest
from victims import World, wrong

KINDS = ("image", "photo", "webp", "gif", "tiff", "shard", "names", "recipe", "result", "inspection", "costs")
MUTANTS = 200  # of each kind


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(Path(__file__).parents[1] / "records" / "0.1.0", tmp_path_factory.mktemp("world") / "here")
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_no_mutant_gives_a_traceback_or_deceives_or_reaches_out(kind, world):
    assert not wrong(world, kind, MUTANTS)
