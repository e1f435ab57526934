import pytest

from kfdeploy.errors import TaskError, UnsupportedError
from kfdeploy.pool.designs import Design, choose_design

ASSEMBLY, SMALL, LARGE = Design("the assembly", 0.6, 0.86), Design("small", 0.4, 0.80), Design("large", 1.0, 0.90)
ALL = [ASSEMBLY, SMALL, LARGE]


def test_the_fastest_that_is_accurate_enough_or_the_most_accurate_in_time():
    assert choose_design(ALL, min_accuracy=0.85) == ASSEMBLY
    assert choose_design(ALL, min_accuracy=0.5) == SMALL
    assert choose_design(ALL, budget_ms=0.7) == ASSEMBLY
    assert choose_design(ALL, budget_ms=5) == LARGE
    assert choose_design(ALL, budget_ms=1.0, min_accuracy=0.9) == LARGE
    assert choose_design([Design("a", None, 0.8), Design("b", None, 0.9)], min_accuracy=0.7).name == "b"


def test_what_nothing_meets_names_the_nearest():
    with pytest.raises(
        TaskError, match=r"no design meets 0.3 ms for these tasks; the nearest is small, about 0.400 ms"
    ):
        choose_design(ALL, budget_ms=0.3)
    with pytest.raises(TaskError, match=r"meets 95 % for these tasks; the nearest is large, about 1.000 ms, 90.00 %"):
        choose_design(ALL, min_accuracy=0.95)
    with pytest.raises(TaskError, match=r"meets 0.5 ms and 85 %"):
        choose_design(ALL, budget_ms=0.5, min_accuracy=0.85)
    with pytest.raises(UnsupportedError, match="no design's cost is known"):
        choose_design([Design("a", None, 0.8)], budget_ms=1)


def test_of_several_fields_every_one_is_asked():
    uneven, even = Design("uneven", 0.5, 0.9, (1.0, 0.8)), Design("even", 1.0, 0.88, (0.9, 0.86))
    assert choose_design([uneven, even], min_accuracy=0.85) == even
    assert choose_design([uneven, even], min_accuracy=0.8) == uneven
    assert choose_design([uneven, even], budget_ms=2) == uneven
    assert str(uneven) == "uneven, about 0.500 ms, 90.00 % on average, 80.00 % in its least field"
