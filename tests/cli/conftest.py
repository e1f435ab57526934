"""The command line as a pipe or a log file sees it."""

import pytest
from commands import kfdeploy


@pytest.fixture
def run(capsys, monkeypatch):
    # No colour and no terminal: what a pipe or a log file gets.
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
