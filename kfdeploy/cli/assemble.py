"""`kfdeploy assemble`: a pool and some tasks become one graph."""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, POOL, WAIT, megabytes, say, tasks_text


def command(
    tasks: list[str] = typer.Option(..., "--tasks", metavar="TASK…", help="The tasks, in the order of the outputs."),
    pool: str = typer.Option("pool", metavar=POOL, help="The pool to take them from."),
    out: Path = typer.Option(Path("assembly"), help="Where the assembly goes."),
    fuse: str = typer.Option("auto", metavar="auto|bank|branches", help="One grouped network, or one a task."),
    open_set: bool = typer.Option(False, "--open-set", help="Add an output that tells images of none of these tasks."),
    false_accept: float | None = typer.Option(None, help="With --open-set: the share of others let in (default 0.05)."),
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Assemble any subset of a pool's tasks into one ONNX graph, without torch."""
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.errors import UnsupportedError, nearest
    from kfdeploy.pool.pool import FORMS, Pool
    from kfdeploy.tasks.openset import FALSE_ACCEPT, by_field
    from kfdeploy.tasks.spec import fields_of

    form = next((form for form in FORMS if form == fuse), None)
    if form is None:
        raise UnsupportedError(f"--fuse is '{fuse}'", allowed=FORMS, hint=nearest(fuse, FORMS))
    if false_accept is not None and not open_set:
        raise UnsupportedError("--false-accept has no meaning without --open-set", hint="add --open-set")
    rate = (FALSE_ACCEPT if false_accept is None else false_accept) if open_set else None
    opened = Pool.open(pool)
    model = assemble(opened, tasks, out, fuse=form, open_set=rate, force=force, wait=wait)
    accuracy, golden, fields = model.accuracy, model.golden, fields_of(model.tasks)
    say(f"tasks:      {tasks_text([task.name for task in model.tasks])}  (from {opened.where})")
    if travelled := opened.place.summary():
        say(f"fetched:    {travelled}")
    if len(model.classes) == 1:
        say(f"accuracy:   one class ('{model.classes[0]}') leaves nothing to tell apart")
    elif not accuracy["images"]:
        say("accuracy:   not known: this pool has no validation logits for all of these tasks together")
    else:
        many = "" if len(fields) == 1 else f", the mean over {', '.join(fields)}"
        say(
            f"accuracy:   {100 * accuracy['validation']:.2f} %, exactly, on {accuracy['images']} validation images "
            f"of these classes{many}"
        )
    rounded = model.parts is not None and any("weights" in entry for entry in model.parts.entries)
    network = "pool's rounded networks" if rounded else "torch network"
    say(f"size:       {megabytes(model.graph.stat().st_size)}, {model.parameters:,} parameters, as {model.form}")
    say(
        f"checked:    differs from the {network} by {golden['difference']:.1e} on {golden['samples']} golden "
        f"samples ({golden['tolerance']:.1e} allowed)"
    )
    for field, told in by_field(model.open_set, model.tasks).items():
        whose = "" if len(fields) == 1 else f"by {field}, "
        say(
            f"open set:   {whose}lets in {100 * told['accepted']:.1f} % of {told['known_images']} validation images of "
            f"these tasks, at most {100 * told['false_accept']:g} % of {told['other_images']} others; "
            f"AUROC {told['auroc']:.3f}"
        )
    say(f"wrote {out}")
    say(
        "next:  kfdeploy export --target onnx"
        + ("" if out == Path("assembly") else f"   (kfdeploy export {out} --target onnx)")
    )
