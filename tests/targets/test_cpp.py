"""The C++ example is built and gives the golden logits, where the headers of ONNX Runtime are installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from places import EXPORT

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.targets.base import fix_batch

SOURCE = EXPORT / "onnxruntime" / "cpp"
HEADER = "onnxruntime_cxx_api.h"
INCLUDES = (
    "/usr/include/onnxruntime", "/usr/include/onnxruntime/core/session", "/usr/local/include/onnxruntime",
    "/usr/local/include/onnxruntime/core/session", "/usr/local/include", "/usr/include",
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The built program, on the library that the Python package holds."""
    asked = [os.environ["ORT_INCLUDE"]] if os.environ.get("ORT_INCLUDE") else INCLUDES
    include = next((place for place in asked if (Path(place) / HEADER).is_file()), None)
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if include is None:
        pytest.skip(f"there is no {HEADER}: set ORT_INCLUDE to its folder")
    if library is None:
        pytest.skip("this onnxruntime package holds no shared library")
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("there is no cmake or no C++ compiler")
    place = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (place / name).symlink_to(library)
    define = [f"-DORT_INCLUDE={include}", f"-DORT_LIBRARY={place / 'libonnxruntime.so'}", "-DCMAKE_CXX_FLAGS=-Werror"]
    run("cmake", "-S", str(SOURCE), "-B", str(place / "build"), *define)
    run("cmake", "--build", str(place / "build"))
    return str(place / "build" / "classify")


def run(*command, code=0):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def lines(done):
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]  # splitlines would cut a name at U+2028


def test_it_gives_the_golden_logits_of_raw_pixels(program, assembly, tmp_path):
    evidence = assembly.evidence()
    evidence.images.tofile(tmp_path / "golden.raw")
    found = lines(run(program, str(assembly.graph), str(tmp_path / "golden.raw"), "--threads", "2"))
    assert [line["index"] for line in found] == list(range(len(evidence.images)))
    assert np.abs(np.array([line["logits"] for line in found]) - evidence.golden).max() <= 1e-4
    names = np.array(assembly.classes)[evidence.golden.argmax(1)]
    assert [line["class"] for line in found] == list(names)


def test_a_fixed_batch_is_filled_up(program, assembly, tmp_path):
    evidence = assembly.evidence()
    fix_batch(assembly.graph, tmp_path / "fixed.onnx", 4)
    evidence.images[:6].tofile(tmp_path / "six.raw")
    found = lines(run(program, str(tmp_path / "fixed.onnx"), str(tmp_path / "six.raw")))
    assert np.abs(np.array([line["logits"] for line in found]) - evidence.golden[:6]).max() <= 1e-4


def test_it_says_what_is_none_of_these(program, toy, tmp_path):
    model = assemble(toy.pool, ["pets"], tmp_path / "open", open_set=0.25)
    evidence = model.evidence()
    evidence.images.tofile(tmp_path / "golden.raw")
    found = lines(run(program, str(model.graph), str(tmp_path / "golden.raw")))
    known = onnxruntime.InferenceSession(model.graph).run(["known"], {"image": evidence.images})[0]
    np.testing.assert_allclose([line["known"] for line in found], known, atol=1e-4)


def test_it_reads_ppm_and_names_with_escapes(program, assembly, tmp_path):
    evidence, names = assembly.evidence(), ['sea "horse"\\\n\t/', "élan 🐎", "dog\u2028\x01"]
    for ascii_only in (True, False):
        model = onnx.load(assembly.graph)
        entry = next(entry for entry in model.metadata_props if entry.key == "classes")
        entry.value = json.dumps(names, ensure_ascii=ascii_only, indent=1).replace("/", "\\/")
        onnx.save(model, tmp_path / "model.onnx")
        for i in range(4):
            path = tmp_path / f'image "{i}".ppm'
            path.write_bytes(b"P6\n# a comment\n8  8 # another\n255\n" + evidence.images[i].tobytes())
            (found,) = lines(run(program, str(tmp_path / "model.onnx"), str(path)))
            assert found["image"] == str(path)
            assert found["class"] == names[evidence.golden[i].argmax()]
            assert np.abs(np.array(found["logits"]) - evidence.golden[i]).max() <= 1e-4


@pytest.mark.parametrize(
    "text", ["", "[", '["a", "b"', '["a" "b"]', '["a",]', '["\\ud800"]', '["\\x"]', '["a"] 1', "{}"]
)
def test_broken_class_names_are_refused(program, assembly, tmp_path, text):
    model = onnx.load(assembly.graph)
    next(entry for entry in model.metadata_props if entry.key == "classes").value = text
    onnx.save(model, tmp_path / "model.onnx")
    done = run(program, str(tmp_path / "model.onnx"), "none.raw", code=1)
    assert done.stderr.startswith("error: the model's metadata 'classes' is not a JSON list of names")


def test_class_names_are_read_from_the_manifest_where_the_metadata_is_gone(program, assembly, tmp_path):
    made = export(assembly, out=tmp_path)
    evidence, graph = assembly.evidence(), made.path / "model.onnx"
    evidence.images.tofile(tmp_path / "golden.raw")
    model = onnx.load(graph)
    del model.metadata_props[:]  # as onnx-graphsurgeon does
    onnx.save(model, graph)
    found = lines(run(program, str(graph), str(tmp_path / "golden.raw")))
    assert [line["class"] for line in found] == list(np.array(assembly.classes)[evidence.golden.argmax(1)])
    manifest = graph.with_name("manifest.json")
    for text in ("", "{", "[]", '{"tasks": []}', '{"tasks": [{"classes": [1]}]}', '{"a": ' + "[" * 99):
        manifest.write_text(text, encoding="utf-8")
        done = run(program, str(graph), str(tmp_path / "golden.raw"), code=1)
        assert done.stderr == f"error: '{manifest}' does not name the classes of its tasks\n"
    manifest.unlink()
    done = run(program, str(graph), "none.raw", code=1)
    assert "has no metadata 'classes', and no 'manifest.json' lies beside it" in done.stderr


def test_a_model_that_takes_floats_gets_them(program, assembly, tmp_path):
    made = export(assembly, out=tmp_path, input="float32")
    evidence = assembly.evidence()
    evidence.images.tofile(tmp_path / "golden.raw")
    found = lines(run(program, str(made.path / "model.onnx"), str(tmp_path / "golden.raw")))
    assert np.abs(np.array([line["logits"] for line in found]) - evidence.golden).max() <= 1e-4


def test_a_model_of_other_fields_is_refused_in_words(program, fields, tmp_path):
    (tmp_path / "golden.raw").write_bytes(bytes(8 * 8 * 3))
    for tasks, gives in ((["lit", "pets"], "'lit, at dusk/é'"), (["round"], "'shape'")):
        graph = assemble(fields, tasks, tmp_path / tasks[0]).graph
        said = run(program, str(graph), str(tmp_path / "golden.raw"), code=1).stderr
        assert f"gives {gives}, and this program reads 'logits' alone, of the field 'class': run.py reads every" in said


def test_errors(program, assembly, tmp_path):
    graph, image = str(assembly.graph), tmp_path / "image.ppm"
    assert run(program, graph, code=2).stderr.startswith("usage: classify model.onnx")
    assert run(program, graph, "a.raw", "--threads", "none", code=2).stderr.startswith("usage: ")
    assert "error: there is no image at" in run(program, graph, str(tmp_path / "none.raw"), code=1).stderr
    assert "error: Load model from" in run(program, str(tmp_path / "none.onnx"), "a.raw", code=1).stderr
    pixels = bytes(8 * 8 * 3)
    for data, what in (
        (b"P6 8 8 255\n" + pixels[1:], "is truncated"),
        (b"P6 9 8 255\n" + pixels, "is 9x8x3, and the model takes 8x8x3 (width x height x channels)"),
        (b"P5 8 8 255\n" + pixels, "is 8x8x1, and the model takes 8x8x3 (width x height x channels)"),
        (b"P6 8 8 65535\n" + pixels, "has the maximum 65535 (allowed: 255)"),
        (b"P6 8 x", "has a broken header"),
        (b"P3 8 8 255\n", "is neither a binary PPM (P6) nor a binary PGM (P5)"),
    ):
        image.write_bytes(data)
        assert run(program, graph, str(image), code=1).stderr == f"error: '{image}' {what}\n"
    image.with_suffix(".raw").write_bytes(pixels + b"1")
    assert (
        "has 193 bytes, which is no number of images of 8x8x3"
        in run(program, graph, str(image.with_suffix(".raw")), code=1).stderr
    )
