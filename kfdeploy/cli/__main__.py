"""`python -m kfdeploy.cli`."""

from kfdeploy.cli import main

main()
