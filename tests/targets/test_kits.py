"""Device kits, run as a device would: as programs, in an environment with neither torch nor kfdeploy."""

import json
import subprocess
import sys
import venv

import numpy as np
import pytest
from PIL import Image

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.parity import TOLERANCE
from kfdeploy.deploy.predict import predict
from kfdeploy.manifest import versions
from kfdeploy.targets.kits import GROUND, OWN, kits, write_kit

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "mnn": "MNN"}


@pytest.fixture(scope="session")
def device(tmp_path_factory):
    """A virtual environment with numpy, Pillow and the runtimes alone; the path of its Python."""
    root = tmp_path_factory.mktemp("device")
    venv.create(root, with_pip=True)
    python = root / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in versions("numpy", "pillow", *RUNTIMES.values()).items()]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the registry cannot be reached: {done.stderr[-200:]}")
    found = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert found.returncode, "the device has torch"
    assert subprocess.run([python, "-c", "import kfdeploy"], capture_output=True, check=False, cwd=root).returncode
    return python


def run(python, folder, *words):
    return subprocess.run(
        [python, *words], cwd=folder, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )


@pytest.fixture
def photos(tmp_path, assembly):
    folder = tmp_path / "photos"
    for i, name in enumerate(["cat", "dog", "sea horse"]):
        (folder / name).mkdir(parents=True)
        Image.fromarray(assembly.evidence().images[i]).save(folder / name / f"{i}.png")
    return folder


def test_every_kit_has_the_same_shape():
    assert {path.name for path in kits().iterdir() if path.is_dir()} == {
        "common", "onnxruntime", "openvino", "tensorrt", "mnn",
    }  # fmt: skip
    for name in ("onnxruntime", "openvino", "tensorrt", "mnn"):
        folder = kits() / name
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "pip install -r requirements.txt" in text
        assert "python check.py" in text
        assert "python bench.py" in text
        needs = (folder / "requirements.txt").read_text(encoding="utf-8")
        assert "numpy" in needs
        assert "torch" not in needs
        assert "class Session" in (folder / "session.py").read_text(encoding="utf-8")


def test_a_kit_holds_kfdeploys_own_clock(tmp_path):
    written = write_kit(tmp_path, "onnxruntime")
    assert written[0] == "README.md"
    assert {
        "bench.py",
        "check.py",
        "device/clock.py",
        "kit.py",
        "device/pixels.py",
        "requirements.txt",
        "run.py",
    } <= set(written)
    for path in (*OWN.glob("*.py"), *GROUND):
        assert (tmp_path / "device" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("target", list(RUNTIMES))
def test_the_three_programs_run_where_there_is_neither_torch_nor_kfdeploy(target, device, assembly, photos, tmp_path):
    artifact = export(assembly, target, kit=True, out=tmp_path / "artifacts")
    folder = artifact.path

    checked = run(device, folder, "check.py")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("right: differs by")

    found = run(device, folder, "run.py", str(photos), "--top", "2")
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    expected = predict(folder, [photos], top=2)
    for line, prediction in zip(lines, expected, strict=True):
        assert line["image"] == str(prediction.path)
        assert [c["class"] for c in line["classes"]] == [name for name, _ in prediction.classes]
        assert [c["probability"] for c in line["classes"]] == pytest.approx(
            [value for _, value in prediction.classes], abs=1e-3
        )

    place = tmp_path / "device.json"
    timed = run(device, folder, "bench.py", "--quick", "--batch", "4", "--json", str(place), "--data", str(photos))
    assert timed.returncode == 0, timed.stderr
    result = json.loads(place.read_text(encoding="utf-8"))
    assert (result["schema"], result["kind"], result["quick"]) == (1, "benchmark", True)
    assert [row["scenario"] for row in result["rows"]] == ["single-stream", "offline"]
    for row in result["rows"]:
        assert row["sha256"] == artifact.sha256
        assert row["bytes"] == artifact.bytes
        assert row["latency_ms"]["p50"] > 0
        assert len(row["samples_ms"]) == result["protocol"]["rounds"]
        assert row["images"] == 3
    assert RUNTIMES[target] in {name.replace("mnn", "MNN") for name in result["machine"]["versions"]}


def test_bench_writes_the_keys_of_kfdeploys_own_rows(assembly, tmp_path, here):
    from kfdeploy.measuring.benchmark import benchmark
    from kfdeploy.targets.device.clock import Protocol

    artifact = export(assembly, "onnx", kit=True, out=here / "artifacts")
    ours = benchmark([artifact.path], scenarios=["single-stream"], quick=True)
    place = tmp_path / "device.json"
    done = subprocess.run(
        [sys.executable, "bench.py", "--quick", "--scenario", "single-stream", "--json", str(place)],
        cwd=artifact.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    device = json.loads(place.read_text(encoding="utf-8"))
    assert set(device) == set(ours) - {"answers", "break_even"}  # a device measures, and does not judge
    assert set(device["rows"][0]) == set(ours["rows"][0])
    assert set(device["protocol"]) == set(vars(Protocol()))
    assert device["rows"][0]["accuracy"] is None  # not measured, and said so


def test_what_is_wrong_is_said_in_a_line(assembly, tmp_path, photos):
    folder = export(assembly, "onnx", kit=True, out=tmp_path / "artifacts").path

    def said(*words):
        done = run(sys.executable, folder, *words)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "there is no image at 'none.png'" in said("run.py", "none.png")
    (tmp_path / "empty").mkdir()
    assert "has no images" in said("run.py", str(tmp_path / "empty"))
    (photos / "broken.png").write_bytes(b"no image")
    assert "broken.png' cannot identify" in said("run.py", str(photos / "broken.png"))
    Image.new("RGB", (9, 9)).save(photos / "large.png")
    assert "is 9×9 pixels, the model takes 8×8" in said("run.py", str(photos / "large.png"))
    assert "has no folder of images for any of" in said("bench.py", "--quick", "--data", str(tmp_path / "empty"))
    golden = dict(np.load(folder / "golden.npz"))
    np.savez(folder / "golden.npz", **golden | {"expected": golden["expected"] + 1})
    assert "error: this model differs by 1.0e+00 on 16 golden samples" in said("check.py")


def test_a_kit_computes_its_bound_and_holds_the_manifest_to_the_golden_samples(assembly, tmp_path):
    folder = export(assembly, "onnx", kit=True, out=tmp_path / "artifacts").path
    path, golden = folder / "manifest.json", dict(np.load(folder / "golden.npz"))
    text = path.read_text(encoding="utf-8")

    def said(change=lambda _: None, *words, **arrays):
        manifest = json.loads(text)
        change(manifest)
        path.write_text(json.dumps(manifest), encoding="utf-8")
        np.savez(folder / "golden.npz", **golden | arrays)
        done = run(sys.executable, folder, "check.py", *words)
        assert "Traceback" not in done.stderr
        return done.stdout if not done.returncode else done.stderr

    def wide(manifest):
        manifest["verify"].update(engine_tolerance=1e300)

    assert said().startswith("right: differs by")
    wrong = golden["expected"] + 1
    assert "error: this model differs by 1.0e+00" in said(wide, expected=wrong)
    assert said(wide, "--atol", "1.1", expected=wrong).startswith("right: differs by")
    for value in (np.inf, np.nan):
        bad = golden["expected"].copy()
        bad[0, 0] = value
        for name in ("expected", "logits"):
            assert "error: the golden logits are not finite" in said(wide, "--atol", "inf", **{name: bad})
    none = {name: golden[name][:0] for name in ("image", "logits", "expected")}
    assert "error: the golden logits have shapes (0, 3) and (0, 3)" in said(**none)
    assert "its 'tasks' is not what golden.npz says" in said(lambda m: m["tasks"].reverse())
    assert "its 'image' is not what golden.npz says" in said(lambda m: m["image"].update(interpolation="nearest"))
    assert "its 'precision' is not what golden.npz says" in said(lambda m: m.update(precision="int8"))
    assert "there is no precision 'x'" in said(lambda m: m.update(precision="x"))
    assert "error: the golden logits have shapes" in said(lambda m: m["tasks"].pop())


def test_a_kit_s_bounds_are_kfdeploy_s_own():
    text = (kits() / "common" / "check.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("TOLERANCE = "))
    assert eval(line.partition("=")[2].partition("#")[0]) == TOLERANCE


def test_a_class_whose_name_leads_elsewhere_has_no_images(assembly, tmp_path, photos):
    folder = export(assembly, "onnx", kit=True, out=tmp_path / "artifacts").path
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["tasks"][1]["classes"] = ["../photos/cat", str(photos / "dog")]
    manifest["tasks"][0]["classes"] = ["x\0"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    done = run(sys.executable, folder, "bench.py", "--quick", "--data", str(photos))
    assert "has no folder of images for any of" in done.stderr


def test_an_artifact_with_its_kit_is_still_an_artifact(toy, tmp_path):
    artifact = export(Model.open(toy.students / "small"), "onnx", kit=True, batch=1, out=tmp_path)
    Artifact.open(artifact.path).check()
    assert (artifact.path / "README.md").is_file()
    done = run(sys.executable, artifact.path, "bench.py", "--quick")
    assert "offline: left out, the model has the fixed batch 1" in done.stdout
