"""`kfdeploy rotate`: another key for the devices, said by the one that they trust."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, KEY, PASSPHRASE, PUBLIC, say


def command(
    new: Path = typer.Argument(..., help="The public key that takes the place of the old one."),
    key: str = KEY,
    passphrase: str | None = PASSPHRASE,
    public: Path | None = PUBLIC,
    out: Path = typer.Option(Path("rotation.json"), help="Where the statement goes."),
    force: bool = FORCE,
) -> None:
    """Let the key that devices trust say that another takes its place; `kfdeploy apply` takes the statement there."""
    from kfdeploy.deploy.update.rotation import rotate

    found = rotate(new, key, out, passphrase=passphrase, public=public, force=force)
    say(f"{found.old} is replaced by {found.new.name} on each device that takes this statement")
    say(f"wrote {out}")
    say(f"next:  copy it to the devices, and there: kfdeploy apply {shlex.quote(out.name)}")
