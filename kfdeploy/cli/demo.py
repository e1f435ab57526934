"""`kfdeploy demo`: the whole line on scikit-learn's digits, in a folder of its own."""

import shlex
import time
from pathlib import Path
from typing import Any

import typer

from kfdeploy.cli.console import FORCE, say

LINES = (
    "kfdeploy doctor",
    "kfdeploy factorize digits",
    "kfdeploy distill",
    "kfdeploy assemble --tasks zero one two three four five six seven eight nine",
    "kfdeploy export --target onnx openvino",
    "kfdeploy verify artifacts/assembly-onnx-fp32",
    "kfdeploy benchmark --quick --json benchmark.json",
    "kfdeploy assemble --tasks three seven --out three-seven",
    "kfdeploy export three-seven --precision auto --out small",
    "kfdeploy predict images --model three-seven --top 2",
)


def command(
    ctx: typer.Context,
    out: Path = typer.Option(Path("kfdeploy-demo"), help="Where everything goes."),
    force: bool = FORCE,
) -> None:
    """Run every verb on the digits: factorize, distill, assemble, export, verify, benchmark, predict."""
    import os

    from kfdeploy.errors import require, require_training
    from kfdeploy.outputs import check_output
    from kfdeploy.writing import write_file

    require_training("the demo")
    require("openvino", "openvino", "the demo")
    check_output(out, force=force)
    if out.exists():
        import shutil

        shutil.rmtree(out)
    out.mkdir(parents=True)
    write_file(out / "demo.json", '{"kind": "demo"}\n')  # by which --force knows its own folder
    root: Any = ctx.find_root().command
    began = time.perf_counter()
    say(f"working in '{out}'; every command below can be typed there by hand")
    before = Path.cwd()
    os.chdir(out)  # the verbs' own defaults are what is shown
    try:
        _images()
        for line in LINES:
            say(f"\n$ {line}")
            root.main(shlex.split(line)[1:], standalone_mode=False)
    finally:
        os.chdir(before)
    say(f"\nthe demo took {time.perf_counter() - began:.0f} s; everything is in '{out}'")


def _images() -> None:
    """Write some test images of threes and sevens."""
    from PIL import Image

    from kfdeploy.data.sources import load_split
    from kfdeploy.training.recipe.recipe import load_recipe

    test = load_split("digits", "", "test", load_recipe("digits").image.spec())
    folder = Path("images")
    folder.mkdir()
    for name in ("three", "seven"):
        for i, row in enumerate((test.labels == test.classes.index(name)).nonzero()[0][:3]):
            Image.fromarray(test.load([row])[0, :, :, 0]).save(folder / f"{name}-{i}.png")
