"""Mutants of pictures and of what people write: the other half of `test_reading`."""

import pytest
from victims import PICTURES, wrong

MUTANTS = 200  # of each kind


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PICTURES)
def test_no_mutant_gives_a_traceback_or_deceives_or_reaches_out(kind, world):
    assert not wrong(world, kind, MUTANTS)
