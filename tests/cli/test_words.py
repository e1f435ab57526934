import io
import sys

import pytest

from kfdeploy.cli.words import spread, task_words


def test_a_word_with_a_dash_that_is_no_option_is_a_value():
    known = {"--tasks", "--out", "-h"}
    assert spread(["--tasks", "-1", "1", "--out", "x"], {"--tasks"}, known) == [
        "--tasks", "-1", "--tasks", "1", "--out", "x",
    ]  # fmt: skip
    assert spread(["--tasks", "cat", "-h"], {"--tasks"}, known) == ["--tasks", "cat", "-h"]
    assert spread(["--tasks", "cat", "--ouy", "x"], {"--tasks"}, known)[-2:] == ["--ouy", "x"]


@pytest.mark.parametrize("names", [["-1", "1"], ["cat", "dog"], ["--x", "cat"], ["-h"]])
def test_what_is_printed_as_next_is_read_back_as_these_names(names):
    found = spread(task_words(names), {"--tasks"}, {"--tasks", "-h"})
    values = [word.partition("=")[2] if word.startswith("--tasks=") else word for word in found if word != "--tasks"]
    assert values == names


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_letter_that_the_terminal_lacks_is_replaced(encoding, monkeypatch):
    from kfdeploy.cli import main

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["kfdeploy", "recipes", "list"])
    with pytest.raises(SystemExit) as stopped:
        main()
    sys.stdout.flush()
    assert not stopped.value.code
    assert raw.getvalue()
