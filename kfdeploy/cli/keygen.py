"""`kfdeploy keygen`: a pair of keys for updates."""

from pathlib import Path

import typer

from kfdeploy.cli.console import say


def command(
    name: Path = typer.Argument(Path("update"), help="Makes NAME.key and NAME.pub."),
) -> None:
    """Make the private key that signs updates, and the public key that a device checks them with."""
    from kfdeploy.deploy.update.keys import fingerprint, keygen, load_public

    private, public = keygen(name)
    say(f"wrote {private}, which signs updates: keep it, and keep it to yourself")
    say(f"wrote {public} ({fingerprint(load_public(public))}), which devices check them with")
    say(f"next:  copy {public} to STATE/keys on each device, which from then on takes only what is signed with its key")
    say("       (STATE: --state of kfdeploy apply, else $KFDEPLOY_STATE, else ~/.local/state/kfdeploy)")
