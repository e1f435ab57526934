"""`kfdeploy sign`: an update that devices with a key take."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, say


def command(
    update: Path = typer.Argument(..., help="What `kfdeploy diff --out` wrote; signed in place."),
    key: Path = typer.Option(..., help="The private key, from `kfdeploy keygen`."),
    counter: int | None = typer.Option(
        None, min=0, show_default=False, help="Grows with every update; older ones are refused. Default: the time."
    ),
    out: Path | None = typer.Option(None, help="Where the signed update goes. Default: in place."),
    force: bool = FORCE,
) -> None:
    """Sign an update with a private key and a counter, so that devices take it, and take none older after it."""
    from kfdeploy.deploy.update.keys import sign

    signed = sign(update, key, counter=counter, out=out, force=force)
    place = out or update
    say(f"signed by {signed.signer}, counter {signed.counter}")
    say(f"wrote {place} ({place.stat().st_size:,} bytes)")
    say(f"next:  copy it to the device, and there: kfdeploy apply {shlex.quote(place.name)}")
