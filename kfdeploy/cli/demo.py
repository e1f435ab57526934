"""`kfdeploy demo`: the whole line on scikit-learn's digits, in a folder of its own."""

import time
from pathlib import Path
from typing import Any

import typer

from kfdeploy.cli.console import FORCE, say


def command(
    out: Path = typer.Option(Path("kfdeploy-demo"), help="Where everything goes."),
    force: bool = FORCE,
) -> None:
    """Run every verb on the digits: factorize, distill, assemble, export, verify, benchmark, predict."""
    import os

    from kfdeploy.cli import assemble, benchmark, distill, doctor, export, factorize, predict, verify
    from kfdeploy.errors import require, require_training
    from kfdeploy.files import check_output

    require_training("the demo")
    require("openvino", "openvino", "the demo")
    check_output(out, force=force)
    if out.exists():
        import shutil

        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / "demo.json").write_text("{}\n", encoding="utf-8")  # by which --force knows its own folder
    began = time.perf_counter()
    say(f"working in '{out}'; every command below can be typed there by hand")
    before = Path.cwd()
    os.chdir(out)  # the verbs' own defaults are what is shown
    try:
        images = _images()
        digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        common: dict[str, Any] = {
            "settings": [],
            "device": "",
            "devices": None,
            "precision": "",
            "threads": None,
            "compile": False,
            "replay": "",
            "resume": False,
            "force": False,
            "tensorboard": False,
        }
        _announce("kfdeploy doctor")
        doctor.command()
        _announce("kfdeploy factorize digits")
        factorize.command(recipe="digits", out=Path("pool"), **common)
        _announce("kfdeploy distill")
        distill.command(recipe="", students=[], tasks=[], pool=Path("pool"), out=Path("students"), **common)
        _announce(f"kfdeploy assemble --tasks {' '.join(digits)}")
        assemble.command(tasks=digits, pool=Path("pool"), out=Path("assembly"), fuse="auto", force=False)
        _announce("kfdeploy export --target onnx openvino")
        export.command(
            models=[],
            target=["onnx", "openvino"],
            precision="fp32",
            batch=0,
            atol=None,
            out=Path("artifacts"),
            force=False,
        )
        _announce("kfdeploy verify artifacts/assembly-onnx-fp32")
        verify.command(paths=[Path("artifacts/assembly-onnx-fp32")], atol=None, threads=1)
        _announce("kfdeploy benchmark --quick --json benchmark.json")
        benchmark.command(
            artifacts=[],
            scenario=["single-stream", "offline"],
            threads=[1],
            batch=32,
            quick=True,
            data=None,
            json=Path("benchmark.json"),
            plot=None,
            force=False,
        )
        _announce("kfdeploy assemble --tasks three seven --out three-seven")
        assemble.command(tasks=["three", "seven"], pool=Path("pool"), out=Path("three-seven"), fuse="auto", force=False)
        _announce("kfdeploy predict images --model three-seven")
        predict.command(images=[images], model=Path("three-seven"), top=2, threads=1, json=False)
    finally:
        os.chdir(before)
    say(f"\nthe demo took {time.perf_counter() - began:.0f} s; everything is in '{out}'")


def _announce(line: str) -> None:
    say(f"\n$ {line}")


def _images() -> Path:
    """Write some test images of threes and sevens."""
    from PIL import Image

    from kfdeploy.data import load_split
    from kfdeploy.recipe import load_recipe

    test = load_split("digits", "", "test", load_recipe("digits").image.spec())
    folder = Path("images")
    folder.mkdir()
    for name in ("three", "seven"):
        for i, row in enumerate((test.labels == test.classes.index(name)).nonzero()[0][:3]):
            Image.fromarray(test.load([row])[0, :, :, 0]).save(folder / f"{name}-{i}.png")
    return folder
