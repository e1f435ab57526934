"""`kfdeploy sign`: an update that devices with a key take."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, KEY, PASSPHRASE, PUBLIC, say


def command(
    update: Path = typer.Argument(..., help="What `kfdeploy diff --out` wrote; signed in place."),
    key: str = KEY,
    counter: int | None = typer.Option(
        None, min=0, show_default=False, help="Grows with every update; older ones are refused. Default: the time."
    ),
    expires: str | None = typer.Option(
        None, metavar="DAY", help="From when on no device takes it: 2027-01-31, or 90d. Default: never."
    ),
    passphrase: str | None = PASSPHRASE,
    public: Path | None = PUBLIC,
    out: Path | None = typer.Option(None, help="Where the signed update goes. Default: in place."),
    force: bool = FORCE,
) -> None:
    """Sign an update with a private key and a counter, so that devices take it, and take none older after it."""
    from kfdeploy.deploy.update.keys import sign

    signed = sign(
        update, key, counter=counter, expires=expires, passphrase=passphrase, public=public, out=out, force=force
    )
    place = out or update
    until = f", expires {signed.expires:%Y-%m-%d %H:%M} UTC" if signed.expires else ""
    say(f"signed by {signed.signer}, counter {signed.counter}{until}")
    say(f"wrote {place} ({place.stat().st_size:,} bytes)")
    say(f"next:  copy it to the device, and there: kfdeploy apply {shlex.quote(place.name)}")
