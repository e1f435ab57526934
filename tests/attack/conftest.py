"""The world that mutants are read in, and a folder for it."""

from pathlib import Path

import pytest
from victims import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(Path(__file__).parents[1] / "records" / "0.1.0", tmp_path_factory.mktemp("world") / "here")
    yield made
    made.close()
