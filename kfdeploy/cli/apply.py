"""`kfdeploy apply`: an update becomes the assembly of this device, or a new key the one that it trusts."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import say, tasks_text


def command(
    update: Path = typer.Argument(..., help="What `kfdeploy diff --out` wrote; or `kfdeploy rotate`."),
    assembly: Path = typer.Argument(Path("assembly"), help="The assembly to bring up to date."),
    state: Path | None = typer.Option(
        None, help="Keys and counters of this device. Default: $KFDEPLOY_STATE, else kfdeploy in your state folder."
    ),
    unsigned: bool = typer.Option(
        False, "--unsigned", help="This device has no key, and takes anything that is whole. Not with --state."
    ),
) -> None:
    """Bring an assembly up to date: checked, composed, proved, swapped in at once; the old one is kept."""
    from kfdeploy.deploy.update.apply import apply
    from kfdeploy.deploy.update.rotation import is_rotation
    from kfdeploy.deploy.update.trust import device_of

    if is_rotation(update):
        old, new = device_of(state, unsigned=unsigned).rotate(update)
        until = f", until {new.expires:%Y-%m-%d}" if new.expires else ""
        say(f"key:  {old.name} ({old.path.name}) is replaced by {new.name}{until}: its updates are taken from now on")
        return
    done = apply(update, assembly, state=state, unsigned=unsigned)
    names = [task.name for task in done.model.tasks]
    if done.key is None:
        say("signature:  not asked for, as --unsigned says: anything that is whole is taken")
    else:
        say(f"signature:  by {done.key.name}, counter {done.counter}")
    if done.already:
        say(f"'{assembly}' is this already ({tasks_text(names)}), and every file of it is as it should be")
        return
    say(f"tasks:      {tasks_text(names)}  (before: {tasks_text(done.before)})")
    say(
        f"checked:    the graph is the promised one, and differs from the torch network by {done.difference:.1e} on "
        f"{done.model.golden['samples']} golden samples ({done.tolerance:.1e} allowed)"
    )
    say(f"wrote {assembly}, and kept the one before")
    say(f"next:  kfdeploy rollback {shlex.quote(str(assembly))}   (to take it back)")
