"""`kfdeploy assemble`: a pool and some tasks become one graph."""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, megabytes, say, tasks_text


def command(
    tasks: list[str] = typer.Option(..., "--tasks", metavar="TASK…", help="The tasks, in the order of the outputs."),
    pool: Path = typer.Option(Path("pool"), help="The pool to take them from."),
    out: Path = typer.Option(Path("assembly"), help="Where the assembly goes."),
    fuse: str = typer.Option("auto", metavar="auto|bank|branches", help="One grouped network, or one a task."),
    force: bool = FORCE,
) -> None:
    """Assemble any subset of a pool's tasks into one ONNX graph, without torch."""
    from kfdeploy.assemble import FORMS, assemble
    from kfdeploy.errors import UnsupportedError, nearest
    from kfdeploy.pool import Pool

    form = next((form for form in FORMS if form == fuse), None)
    if form is None:
        raise UnsupportedError(f"--fuse is '{fuse}'", allowed=FORMS, hint=nearest(fuse, FORMS))
    model = assemble(pool, tasks, out, fuse=form, force=force)
    found = model.manifest
    accuracy, golden = found["accuracy"], found["golden"]
    say(f"tasks:      {tasks_text([task.name for task in model.tasks])}  (from {pool})")
    if len(model.classes) == 1:
        say(f"accuracy:   one class ('{model.classes[0]}') leaves nothing to tell apart")
    elif not accuracy["images"]:
        say("accuracy:   not known: this pool has no validation logits for all of these tasks together")
    else:
        say(
            f"accuracy:   {100 * accuracy['validation']:.2f} %, exactly, on {accuracy['images']} validation images "
            "of these classes"
        )
    rounded = any("weights" in entry for entry in Pool.open(out / "parts").manifest["tasks"])
    network = "pool's rounded networks" if rounded else "torch network"
    say(f"size:       {megabytes(model.graph.stat().st_size)}, {found['parameters']:,} parameters, as {found['fuse']}")
    say(
        f"checked:    differs from the {network} by {golden['difference']:.1e} on {golden['samples']} golden "
        f"samples ({golden['tolerance']:.1e} allowed)"
    )
    say(f"wrote {out}")
    say(
        "next:  kfdeploy export --target onnx"
        + ("" if out == Path("assembly") else f"   (kfdeploy export {out} --target onnx)")
    )
