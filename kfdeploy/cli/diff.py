"""`kfdeploy diff`: what changed, and the file that brings it to a device."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, megabytes, say


def command(
    old: Path = typer.Argument(..., help="The assembly on the device, or a pool."),
    new: Path = typer.Argument(..., help="The assembly it is to become, or a pool."),
    out: Path | None = typer.Option(None, help="Where the update goes, such as update.kfu."),
    force: bool = FORCE,
) -> None:
    """Say what changed between two assemblies or two pools, and write it as an update for a device."""
    from kfdeploy.deploy.update.diff import diff, write_update

    found = write_update(old, new, out, force=force) if out is not None else diff(old, new)
    for line in found.sentences():
        say(line)
    if found.whole and found.kind == "assembly":
        say("note: the networks are others, so everything is shipped")
    for name, count in found.files.items():
        say(f"  {count:>10,} bytes  {name}")
    if found.kind == "pool":
        say(f"to ship:  {megabytes(found.bytes)} of files" if found.files else "to ship:  nothing")
        return
    say(f"to ship:  {found.bytes:,} bytes" + ("" if found.bytes else ", as nothing changed"))
    if out is not None:
        say(f"wrote {out}")
        say(f"next:  kfdeploy sign {shlex.quote(str(out))} --key update.key   (or, on a device without a key,")
        say(f"       kfdeploy apply {shlex.quote(str(out))} {shlex.quote(str(old))} --unsigned)")
    elif found.bytes:
        say(f"next:  kfdeploy diff {shlex.quote(str(old))} {shlex.quote(str(new))} --out update.kfu")
