"""`kfdeploy export`: models become artifacts of a target."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kfdeploy.cli.console import FORCE, WAIT, megabytes, say

if TYPE_CHECKING:
    from kfdeploy.deploy.artifact import Artifact


def command(
    models: list[Path] = typer.Argument(
        None, metavar="[MODEL]…", help="Default: the assembly, the students, the teacher."
    ),
    target: list[str] = typer.Option(["onnx"], "--target", metavar="onnx|openvino|trt|mnn…", help="What to export to."),
    precision: str = typer.Option(
        "fp32", metavar="fp32|fp16|int8|auto", help="What it computes in; auto measures all and keeps the fastest."
    ),
    max_drop: float = typer.Option(0.01, min=0, help="With auto: the accuracy that may be lost, as a share."),
    data: Path | None = typer.Option(None, help="With auto: a folder with train/<class>/ in place of the model's own."),
    fuse: str | None = typer.Option(
        None, metavar="auto|bank|branches", help="Compose anew; auto measures both. Default: as assembled."
    ),
    batch: int = typer.Option(0, min=0, help="A fixed batch; 0 keeps it dynamic."),
    provider: str | None = typer.Option(None, help="An execution provider of ONNX Runtime, by its name."),
    input_: str | None = typer.Option(
        None, "--input", metavar="uint8|float32", help="float32: no cast in the graph, for runtimes without bytes."
    ),
    int8_head: str | None = typer.Option(
        None, metavar="exact|conv", help="conv: int8 heads that OpenCV runs; exact has the same bits in every subset."
    ),
    kit: bool = typer.Option(False, "--kit", help="Put the device kit beside the model."),
    atol: float | None = typer.Option(None, min=0, help="Largest difference allowed in every step."),
    out: Path = typer.Option(Path("artifacts"), help="Where the artifacts go, a folder each."),
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Export models, each proved right on its golden samples before it is there."""
    # Long by its options alone: each is a line of its own in --help.
    from kfdeploy import targets
    from kfdeploy.deploy.export import check_fuse, chosen_options
    from kfdeploy.deploy.here import find_models
    from kfdeploy.deploy.model import Model
    from kfdeploy.errors import OutputError
    from kfdeploy.measuring.fastest import export_fastest
    from kfdeploy.outputs import check_output
    from kfdeploy.tasks.spec import split_words

    names = list(dict.fromkeys(split_words(target)))
    asked = {"provider": provider, "input": input_, "int8_head": int8_head}
    options: dict[str, Any] = {"batch": batch} | {key: value for key, value in asked.items() if value is not None}
    auto = precision == "auto"
    check_fuse(fuse)
    for name in names:  # arguments are checked before files
        module = targets.load(name, "fp32" if auto else precision)
        chosen_options(module, precision="int8" if auto and int8_head else "fp32" if auto else precision, **options)
    opened = [Model.open(path) for path in find_models(models or [])]
    if twice := [model for i, model in enumerate(opened) if model.name in {m.name for m in opened[:i]}]:
        raise OutputError(
            f"two of these models are called '{twice[0].name}'", hint="export each to an --out of its own"
        )
    for model in [] if auto else opened:
        for name in names:
            check_output(out / f"{model.name}-{name}-{precision}", force=force)
    shared: dict[str, Any] = {"fuse": fuse, "kit": kit, "atol": atol} | options
    for model in opened:
        for name in names:
            artifact, rows = export_fastest(
                model, name, precision=precision, max_drop=max_drop, data=data, out=out, force=force, wait=wait,
                report=say, **shared,
            )  # fmt: skip
            for row in rows:
                say(f"  {row['precision']}: {_numbers(row)}{row['why']}")
            found = artifact.proof
            say(
                f"{model.path} → {artifact.path}  {megabytes(artifact.bytes)}, batch {batch or 'dynamic'}"
                + (f", as {artifact.form}" if artifact.form else "")
                + f", convolutions {_counts(artifact.executed['convolutions'])}, "
                f"differs from torch by {found['difference']:.1e}{_alike(artifact)}"
                + (f"  (not run here: {found['not_run']})" if found["not_run"] else "")
            )
            if kit:
                say(f"kit:  {artifact.path / 'README.md'}")
    say("next:  kfdeploy benchmark")


def _numbers(row: dict[str, Any]) -> str:
    if "p50_ms" not in row:
        return ""
    low, high = row["interval"]
    return (
        f"p50 {row['p50_ms']:.3f} ms ({row['p50_ratio']:.2f} of fp32 [{low:.2f}, {high:.2f}]), "
        f"accuracy {100 * row['accuracy']:.2f} % on {row['images']} validation images, "
        f"{megabytes(row['bytes'])}, convolutions {_counts(row['convolutions'])}: "
    )


def _alike(artifact: "Artifact") -> str:
    """Say how many golden samples it answers as the float32 graph does, where it computes in fewer bits."""
    proof = artifact.proof
    if artifact.precision == "fp32" or "equal" not in proof:
        return ""
    return f", the same answer on {round(proof['equal'] * proof['samples'])} of {proof['samples']} golden samples"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in found.items()) or "not known"
