"""`kfdeploy pool`: what is done to pools as files."""

import typer

from kfdeploy.cli.console import FORCE, megabytes, say

app = typer.Typer(help="Push a pool to a server.", no_args_is_help=True)


@app.command("push")
def push(
    pool: str = typer.Argument(..., metavar="POOL", help="The pool."),
    url: str = typer.Argument(..., metavar="URL", help="Where to: s3://bucket/folder, or any URL of fsspec."),
    train: bool = typer.Option(False, "--train", help="Also what resuming or adding a task needs."),
    force: bool = FORCE,
) -> None:
    """Push a pool to a server: its files, then its manifest, so that there it is whole or absent."""
    import sys
    import time

    from kfdeploy.push import push as send

    began = time.perf_counter()
    done = send(pool, url, train=train, force=force, report=say if sys.stdout.isatty() else lambda _: None)
    seconds = time.perf_counter() - began
    total = done.sent + done.there
    say(f"sent:    {done.sent} of {total} files, {megabytes(done.sent_bytes)}, in {seconds:.1f} s")
    if done.there:
        say(f"there:   {done.there} files, which the server had already")
    if done.removed:
        say(f"removed: {done.removed} files of the pool that was there before")
    say(f"checked: '{done.where}' has every file, whole")
    say(f"next:  kfdeploy assemble --pool {done.where} --tasks …")
