"""A device of its own for every test."""

import pytest
from devices import World


@pytest.fixture
def world(toy, tmp_path):
    return World(toy, tmp_path)
