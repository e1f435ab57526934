"""`kfdeploy verify`: hashes and golden samples, again."""

import typer

from kfdeploy.cli.console import say


def command(
    paths: list[str] | None = typer.Argument(
        None, metavar="[PATH|URL]…", help="Artifacts, assemblies, students, pools."
    ),
    atol: float | None = typer.Option(
        None, min=0, help="Largest difference allowed. Default: 1e-4 × max(1, largest logit)."
    ),
    threads: int = typer.Option(1, min=1, help="Threads of the runtime."),
) -> None:
    """Verify that files are as their manifest says, and that they give the torch network's numbers."""
    from kfdeploy.deploy.here import find_verifiable
    from kfdeploy.deploy.verify import verify

    for path in find_verifiable(paths or []):
        verdict = verify(path, atol=atol, threads=threads)
        say(
            f"{path}: differs by {verdict.difference:.1e} on {verdict.samples} golden samples "
            f"({verdict.tolerance:.1e} allowed)"
        )
        for task, difference in verdict.tasks.items():
            say(f"  {task}: {difference:.1e}")
