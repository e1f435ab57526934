"""`python -m kfdeploy`."""

from kfdeploy.cli import main

main()
