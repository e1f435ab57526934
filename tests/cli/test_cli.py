import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kfdeploy.cli import app, main
from kfdeploy.cli.words import spread
from kfdeploy.errors import KfdeployError

SEVERAL = {"--tasks", "--set"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--tasks", "cat", "dog"], ["--tasks", "cat", "--tasks", "dog"]),
        (["--tasks", "cat", "--tasks", "dog"], ["--tasks", "cat", "--tasks", "dog"]),
        (
            ["--tasks", "cat", "dog", "--out", "x", "--force"],
            ["--tasks", "cat", "--tasks", "dog", "--out", "x", "--force"],
        ),
        (["a", "--set", "x=1", "y=2", "--tasks", "b"], ["a", "--set", "x=1", "--set", "y=2", "--tasks", "b"]),
        (["--tasks=cat", "x"], ["--tasks=cat", "x"]),
        (["--tasks"], ["--tasks"]),
        (["--tasks", "--out", "x"], ["--tasks", "--out", "x"]),
        (["--tasks", "a", "--", "b"], ["--tasks", "a", "--", "b"]),
        (["--out", "x", "y"], ["--out", "x", "y"]),
    ],
)
def test_options_of_several_values_take_the_words_up_to_the_next_option(given, expected):
    assert spread(given, SEVERAL) == expected


def test_the_three_ways_to_name_tasks_mean_the_same(run, toy, here):
    graphs = []
    for i, words in enumerate(
        (["--tasks", "élan", "pets"], ["--tasks", "élan,pets"], ["--tasks", "élan", "--tasks", "pets"])
    ):
        code, out, err = run("assemble", *words, "--pool", toy.pool, "--out", f"{i}/assembly")
        assert code == 0, err
        assert "of these classes" in out
        graphs.append(Path(f"{i}/assembly/model.onnx").read_bytes())
    assert graphs[0] == graphs[1] == graphs[2]


def test_an_error_is_one_message_and_one_hint(run, toy, here):
    code, out, err = run("assemble", "--tasks", "pest", "--pool", toy.pool)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: task 'pest' is not in pool .*\nhint:  did you mean 'pets'\?  --tasks pets\n", err)
    code, _, err = run("export", "--target", "tensorrt")
    assert code == 2
    assert err.startswith(
        "error: there is no target 'tensorrt' (allowed: onnx, openvino, trt, mnn)\nhint:  did you mean"
    )
    code, _, err = run("export", "--precision", "int9")
    assert code == 2
    assert "target 'onnx' has no precision 'int9' (allowed: fp32, fp16, int8)" in err
    code, _, err = run("export", "--provider", "CUDAExecutionProvider", "--target", "openvino")
    assert code == 2
    assert "target 'openvino' has no option 'provider'" in err
    code, _, err = run("export", "--input", "float23")
    assert code == 2
    assert "--input is 'float23' (allowed: uint8, float32)\nhint:  did you mean 'float32'?" in err
    code, _, err = run("export", "--int8-head", "conv")
    assert code == 2
    assert "--int8-head is 'conv', and the precision is fp32 (allowed: int8)" in err
    code, _, err = run("export", "--fuse", "bnak")
    assert (code, "did you mean 'bank'?" in err) == (2, True)
    code, _, err = run("assemble", "--pool", toy.pool)
    assert code == 2
    code, _, err = run("assemble", "--tasks", "pets", "--fuse", "banc")
    assert code == 2
    assert "did you mean 'bank'?" in err
    assert not list(here.iterdir())


def test_a_mistake_of_ours_shows_its_traceback(monkeypatch, toy, here):
    from kfdeploy.pool import pool

    monkeypatch.setattr(pool.Pool, "choose", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["kfdeploy", "assemble", "--tasks", "pets", "--pool", str(toy.pool)])
    with pytest.raises(ZeroDivisionError):
        main()
    assert not issubclass(ZeroDivisionError, KfdeployError)


def test_the_verbs_work_one_after_another_in_an_empty_folder(run, toy, here):
    recipe = toy.write_recipe(here)
    code, out, err = run("factorize", recipe, "--set", "train.epochs=1", "teacher.train.epochs=1", "--device", "cpu")
    assert code == 0, err
    assert "teacher: 1 epochs" in out
    assert "wrote pool" in out
    assert "next:  kfdeploy assemble --tasks pets 'ünï/c'" in out
    code, out, err = run("factorize", recipe, "--set", "train.epochs=1", "teacher.train.epochs=1", "--resume")
    assert (code, out) == (0, "'pool' is finished, and every file of it is as it should be\n"), err
    code, out, err = run("distill", "--set", "train.epochs=1")
    assert code == 0, err
    assert "no recipe was named: taking that of 'pool'" in out
    assert "wrote students/small" in out
    code, out, err = run("distill", "--resume")
    assert "'students/small' is finished" in out
    code, out, err = run("assemble", "--tasks", "pets", "élan")
    assert code == 0, err
    code, out, err = run("export", "--target", "onnx", "openvino")
    assert code == 0, err
    assert out.count("→") == 6
    code, out, err = run("export", "--target", "onnx")
    assert code == 1
    assert "--force" in err
    code, out, err = run("verify")
    assert code == 0, err
    assert out.count("golden samples") == 6
    code, out, err = run("verify", "pool", "assembly")
    assert out.count("golden samples") == 2
    code, out, err = run("benchmark", "--quick", "--json", "b.json", "--scenario", "single-stream")
    assert code == 0, err
    assert "quick look" in out
    assert json.loads(Path("b.json").read_text())["rows"][0]["kind"] == "assembly"
    assert Path("b.png").stat().st_size > 1000
    code, out, err = run("predict", toy.data / "test" / "cat", "--top", "2")
    assert code == 0, err
    assert out.count("%") == 12
    code, out, err = run("predict", toy.data / "test" / "cat" / "000.png", "--json", "--model", "students/small")
    assert len(json.loads(out)["classes"]) == 3
    assert {path.name for path in here.iterdir()} == {
        "recipe.toml",
        "pool",
        "students",
        "assembly",
        "artifacts",
        "b.json",
        "b.png",
    }


def test_every_precision_is_measured_and_the_others_say_why_not(run, toy, assembly, here):
    code, out, err = run("export", assembly.path, "--precision", "auto", "--max-drop", "0.9", "--fuse", "bank", "--kit")
    assert code == 0, err
    rows = re.findall(
        r"^  (fp32|fp16|int8): p50 .* ms .*, accuracy .* validation images, .* in (\w+): (.*)$", out, re.M
    )
    assert [name for name, _, _ in rows] == ["fp32", "fp16", "int8"]
    assert rows[2][1] == "int8"
    assert [why.startswith("kept") for _, _, why in rows].count(True) == 1
    assert ", as bank, convolutions" in out
    assert len(list((here / "artifacts").iterdir())) == 1
    assert "README.md" in out


def test_trt_is_exported_with_its_kit_and_said_not_to_have_run(run, assembly, here):
    from kfdeploy import targets

    if not targets.load("trt").can_run():
        pytest.skip("this machine can run it")
    for precision in ("fp32", "fp16", "int8"):
        code, out, err = run("export", assembly.path, "--target", "trt", "--precision", precision)
        assert code == 0, err
        assert "not run here: TensorRT is not installed" in out
        folder = here / "artifacts" / f"assembly-trt-{precision}"
        assert {"build.py", "check.py", "model.onnx", "README.md"} <= {path.name for path in folder.iterdir()}
    code, _, err = run("export", assembly.path, "--target", "trt", "--precision", "auto")
    assert code == 2
    assert "--precision auto measures, and TensorRT is not installed" in err


def test_a_provider_that_is_not_there_is_refused_and_nothing_is_left(run, assembly, here):
    code, _, err = run("export", assembly.path, "--provider", "CPUExecutionProvidr")
    assert code == 2
    assert "this ONNX Runtime has no execution provider 'CPUExecutionProvidr'" in err
    assert "did you mean 'CPUExecutionProvider'?" in err
    assert not list(here.glob("artifacts/*"))
    code, _, err = run("export", assembly.path, "--provider", "CPUExecutionProvider")
    assert code == 0, err


def test_input_and_int8_head_are_on_record(run, assembly, here):
    words = ("--precision", "int8", "--input", "float32", "--int8-head", "conv", "--kit")
    code, _, err = run("export", assembly.path, *words)
    assert code == 0, err
    folder = here / "artifacts" / "assembly-onnx-int8"
    options = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["options"]
    assert (options["input"], options["int8_head"]) == ("float32", "conv")
    assert run("verify", folder)[0] == 0
    done = subprocess.run([sys.executable, "check.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # its own kit, which gives it floats


def test_calibrate_says_what_it_has_seen(run, pool, here):
    code, out, err = run("calibrate", pool, "--images", "6")
    assert code == 0, err
    assert f"{pool}: ranges of 6 validation images" in out


def test_bare_factorize_takes_the_digits_and_says_so(run, here):
    code, out, err = run("factorize", "--set", "train.epochs=1", "teacher.train.epochs=1", "teacher.min_accuracy=0")
    assert code == 0, err
    assert out.startswith("no recipe was named: taking the embedded default, 'digits'")
    shutil.rmtree("pool")


def test_cuda_is_refused_where_there_is_none(run, here, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run("factorize", "digits", "--device", "cuda")
    assert code == 2
    assert "no CUDA device" in err
    assert not list(here.iterdir())


def test_recipes_are_listed_shown_and_copied(run, here):
    _, out, _ = run("recipes", "list")
    assert "digits" in out
    _, out, _ = run("recipes", "show", "digits")
    assert 'name = "digits"' in out
    code, out, _ = run("recipes", "copy", "digits")
    assert code == 0
    assert Path("digits.toml").is_file()
    code, _, err = run("recipes", "copy", "digits")
    assert code == 1
    assert "is already there" in err
    code, _, err = run("recipes", "show", "digit")
    assert code == 2
    assert "did you mean 'digits'?" in err


def test_doctor_tells_every_target(run):
    code, out, _ = run("doctor")
    assert code == 0
    assert "ONNX Runtime" in out
    assert "OpenVINO" in out
    assert "TensorRT: exports, with a kit that builds on the device" in out
    assert "mnn: MNN" in out


def test_help_is_quick_and_loads_neither_torch_nor_a_runtime():
    code = (
        "import sys\nsys.argv = ['kfdeploy', '--help']\n"
        "from kfdeploy.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnxruntime', 'openvino', 'onnx', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "factorize" in done.stdout


def test_every_verb_has_help(run):
    for command in app.registered_commands:
        code, out, _ = run(command.name, "--help")
        assert code == 0
        assert "Usage" in out


def test_the_version_is_told(run):
    from kfdeploy.version import __version__

    assert run("--version")[1] == f"kfdeploy {__version__}\n"


@pytest.mark.parametrize("width", [1, 2])
def test_progress_on_a_terminal_and_elsewhere(width, capsys, monkeypatch):
    from kfdeploy.cli.console import TrainingProgress

    monkeypatch.setattr(sys.stdout, "isatty", lambda: width == 2, raising=False)
    progress = TrainingProgress()
    row = {"loss": 1.0, "validation": 0.5, "seconds": 1.0}
    progress.start("x", 2, 1, 3)
    progress.step(0, 1, 2)
    progress.epoch(0, 2, row)
    progress.epoch(1, 2, row)
    progress.stop()
    progress.start("x", 2, 3, 0)
    progress.stop()
    out = capsys.readouterr().out
    assert "x: going on at epoch 1 of 2, after step 3" in out
    assert "validation 50.00 %" in out
    assert "all 2 epochs are done" in out


def test_inspect_says_what_the_factors_are_and_writes_what_is_asked(run, toy, here):
    code, out, _ = run("inspect", toy.pool, "--json", "found.json")
    assert code == 0
    for word in ("alike:", "knows:", "calibration:", "information:", "wrote found.json", "wrote found.png"):
        assert word in out
    assert json.loads((here / "found.json").read_text())["kind"] == "inspection"
    code, _, err = run("inspect", toy.pool, "--json", "found.json")
    assert code == 1
    assert "'found.json' is already there" in err
    assert run("inspect", "nowhere")[0] == 1
    small = toy.students / "small"
    code, out, _ = run("inspect", toy.pool, "--beside", small, toy.pool / "train" / "teacher", "--subsets", "2")
    assert code == 0
    assert out.count("beside:  ") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--disentanglement"], "has the one field 'class', and disentanglement is of two factors or more"),
        (["--disentanglement", "--codes", "each", "tsns"], "there are no codes 'tsns' (allowed: tasks, each, common)"),
        (["--disentanglement", "--trees", "oak"], "there are no trees 'oak' (allowed: forest, gbt)"),
        (["--codes", "each,common"], "--codes is for --disentanglement, and that was not asked for"),
        (["--trees", "gbt"], "--trees is for --disentanglement, and that was not asked for"),
    ],
)
def test_disentanglement_that_cannot_be_had_is_refused_before_anything_is_read(run, toy, here, words, said):
    code, out, err = run("inspect", toy.pool, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not list(here.iterdir())


def test_more_devices_than_there_are_is_refused_before_anything_starts(run, toy, here):
    code, _, err = run("factorize", "--devices", "1000", "--device", "cpu")
    assert code == 2
    assert re.search(r"error: --devices 1000 was asked for, and there are \d+ processor cores", err)
    assert not list(here.iterdir())


def test_the_options_of_training_are_the_recipe_s(run, toy, tmp_path, here):
    path = toy.write_recipe(tmp_path)
    words = ("--threads", "1", "--replay", "said so", "--set", "train.epochs=1", "teacher.train.epochs=1")
    assert run("factorize", path, *words)[0] == 0
    recipe = json.loads((here / "pool" / "pool.json").read_text())["recipe"]
    assert (recipe["run"]["threads"], recipe["run"]["replay"]) == (1, "said so")
    assert len(list((here / "said so").glob("*/epoch-0000-0.safetensors"))) == 1
    assert "peak_mib" in (here / "pool" / "train" / "timing.csv").read_text()


def test_the_demo_types_what_it_prints(here, monkeypatch):
    from kfdeploy import cli
    from kfdeploy.cli import demo

    typed = []
    verbs = {command.name for command in cli.app.registered_commands}
    root = SimpleNamespace(main=lambda words, standalone_mode: typed.append(["kfdeploy", *words]))
    context = SimpleNamespace(find_root=lambda: SimpleNamespace(command=root))
    monkeypatch.setattr(demo, "_images", lambda: None)
    demo.command(context, out=Path("demo"), force=False)
    assert [" ".join(words) for words in typed] == list(demo.LINES)
    assert {words[1] for words in typed} <= verbs


def test_what_the_system_refuses_is_told_in_a_line(run, here):
    for words in (
        ("verify", "x" * 5000),
        ("pool", "show", "x" * 300),
        ("apply", "x" * 5000, "y"),
        ("verify", "/dev/zero/x"),
    ):
        code, _, err = run(*words)
        assert code in (1, 2)
        assert err.startswith("error: ")
        assert "Traceback" not in err
    code, _, err = run("verify", "caf\udce9")
    assert (code, err.splitlines()[0]) == (2, r"error: 'caf\xe9' is no text in UTF-8")


def test_a_name_does_not_steer_the_terminal(run, here):
    code, _, err = run("verify", "\x1b[2J\nerror: all is well")
    assert code == 1
    assert "\x1b" not in err
    assert len(err.splitlines()) <= 2


def test_letters_that_a_terminal_lacks_are_written_as_json_has_them():
    from kfdeploy.cli import _escaped

    assert _escaped(UnicodeEncodeError("ascii", "aé\N{GRINNING FACE}", 1, 3, "")) == (r"\u00e9\ud83d\ude00", 3)
