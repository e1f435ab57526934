"""`kfdeploy export`: models become artifacts of a target."""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, megabytes, say


def command(
    models: list[Path] = typer.Argument(
        None, metavar="[MODEL]…", help="Default: the assembly, the students, the teacher."
    ),
    target: list[str] = typer.Option(["onnx"], "--target", metavar="onnx|openvino…", help="What to export to."),
    precision: str = typer.Option("fp32", metavar="fp32", help="What the artifact computes in."),
    batch: int = typer.Option(0, min=0, help="A fixed batch; 0 keeps it dynamic."),
    atol: float | None = typer.Option(
        None, min=0, help="Largest difference allowed. Default: 1e-4 × max(1, largest logit)."
    ),
    out: Path = typer.Option(Path("artifacts"), help="Where the artifacts go, a folder each."),
    force: bool = FORCE,
) -> None:
    """Export models, each proved right on its golden samples before it is there."""
    from kfdeploy import targets
    from kfdeploy.artifact import export, find_models
    from kfdeploy.errors import OutputError
    from kfdeploy.files import check_output
    from kfdeploy.model import Model
    from kfdeploy.pool import split_words

    names = list(dict.fromkeys(split_words(target)))
    for name in names:  # arguments are checked before files
        targets.load(name, precision)
    opened = [Model.open(path) for path in find_models(models or [])]
    if twice := [model for i, model in enumerate(opened) if model.name in {m.name for m in opened[:i]}]:
        raise OutputError(
            f"two of these models are called '{twice[0].name}'", hint="export each to an --out of its own"
        )
    for model in opened:
        for name in names:
            check_output(out / f"{model.name}-{name}-{precision}", force=force)
    for model in opened:
        for name in names:
            artifact = export(model, name, precision=precision, batch=batch, out=out, atol=atol, force=force)
            found = artifact.manifest["verify"]
            say(
                f"{model.path} → {artifact.path}  {megabytes(artifact.bytes)}, batch {batch or 'dynamic'}, "
                f"differs by {found['difference']:.1e} ({found['tolerance']:.1e} allowed)"
            )
    say("next:  kfdeploy benchmark")
