"""Running the command line in this process."""

import sys
from contextlib import redirect_stdout
from io import StringIO

from kfdeploy.cli import main


def kfdeploy(*words, capsys=None, monkeypatch=None):
    """Run the command line in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["kfdeploy", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as leave:
        code = leave.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


def command(line):
    """Run one line that has to succeed, silently; `@` stands for a space inside a word."""
    argv, sys.argv = sys.argv, ["kfdeploy", *(word.replace("@", " ") for word in line.split())]
    try:
        with redirect_stdout(StringIO()):
            main()
    except SystemExit as leave:
        if leave.code:
            raise AssertionError(f"{line}: exit {leave.code}") from None
    finally:
        sys.argv = argv
