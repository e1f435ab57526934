"""Running the command line in this process."""

import sys

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
