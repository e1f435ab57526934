"""`kfdeploy keygen`: a pair of keys for updates."""

from pathlib import Path

import typer

from kfdeploy.cli.console import say


def command(
    name: Path = typer.Argument(Path("update"), help="Makes NAME.key and NAME.pub."),
    passphrase: str | None = typer.Option(
        None, metavar="ask|env:NAME|file:PATH", help="Where a passphrase for the private key comes from. Default: none."
    ),
    expires: str | None = typer.Option(
        None, metavar="DAY", help="From when on devices trust it no more: 2027-01-31, or 365d. Default: never."
    ),
) -> None:
    """Make the private key that signs updates, and the public key that a device checks them with."""
    from kfdeploy.deploy.update.keys import keygen
    from kfdeploy.deploy.update.public import read_public

    there = Path(f"{name}.key").is_file()
    private, public = keygen(name, passphrase=passphrase, expires=expires)
    found = read_public(public)
    until = f", until {found.expires:%Y-%m-%d}" if found.expires else ""
    if there:
        say(f"{private} was there, without its public half")
    else:
        say(f"wrote {private}, which signs updates{until}: keep it, and keep it to yourself")
    say(f"wrote {public} ({found.name}), which devices check them with")
    say(f"next:  copy {public} to STATE/keys on each device, which from then on takes only what is signed with its key")
    say("       (STATE: --state of kfdeploy apply, else $KFDEPLOY_STATE, else ~/.local/state/kfdeploy)")
