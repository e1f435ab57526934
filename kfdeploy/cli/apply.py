"""`kfdeploy apply`: an update becomes the assembly of this device."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import say, tasks_text


def command(
    update: Path = typer.Argument(..., help="What `kfdeploy diff --out` wrote."),
    assembly: Path = typer.Argument(Path("assembly"), help="The assembly to bring up to date."),
    state: Path | None = typer.Option(
        None, help="Keys and counters of this device. Default: $KFDEPLOY_STATE, else kfdeploy in your state folder."
    ),
) -> None:
    """Bring an assembly up to date: checked, composed, proved, swapped in at once; the old one is kept."""
    from kfdeploy.deploy.update.apply import apply
    from kfdeploy.deploy.update.trust import state_folder

    done = apply(update, assembly, state=state)
    names = [task.name for task in done.model.tasks]
    if done.key is None:
        say(f"signature:  not asked for: there is no key in '{state_folder(state) / 'keys'}'")
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
