"""A manifest is held to what the model says of itself: each thing that can be altered, by the message."""

import importlib.util
import json
import shutil

import numpy as np
import onnx
import pytest
from pools import describe

from kfdeploy.deploy import identity
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.identity import told_by_openvino
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.predict import predict
from kfdeploy.deploy.update.diff import open_whole
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import PoolError
from kfdeploy.manifest import describe_files
from kfdeploy.measuring.benchmark import benchmark

MNN = importlib.util.find_spec("MNN") is not None


def edit(path, change):
    """Change a manifest by a function."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def swap_classes(manifest):
    one, other = manifest["tasks"][0]["classes"], manifest["tasks"][1]["classes"]
    one[0], other[0] = other[0], one[0]


# Of every manifest: what is changed, and what is said of it.
CHANGES = {
    "a task gone": (lambda m: m["tasks"].pop(), "names the tasks sea horse, and '.*' has sea horse, pets"),
    "a task more": (lambda m: m["tasks"].append(m["tasks"][0]), "names the tasks sea horse, pets, sea horse, and"),
    "tasks in another order": (lambda m: m["tasks"].reverse(), "names the tasks pets, sea horse, and"),
    "a task renamed": (lambda m: m["tasks"][0].update(name="x"), "names the tasks x, pets, and '.*' has sea horse"),
    "classes swapped": (swap_classes, r"task 'sea horse' is .*cat.* there, and .*sea horse.* in '"),
    "a class renamed": (lambda m: m["tasks"][1].update(classes=["cat", "wolf"]), "task 'pets' is .*wolf.* there, and"),
    "a class more": (lambda m: m["tasks"][0]["classes"].append("x"), "task 'sea horse' is .*x.* there, and"),
    "another kind of task": (lambda m: m["tasks"][0].update(kind="depth"), "task 'sea horse' is .*depth.* there"),
    "the mean": (lambda m: m["image"].update(mean=[0.5, 0.45, 0.5]), "image.mean is .*0.5. there, and .*0.4. in '"),
    "the std": (lambda m: m["image"].update(std=[1, 1, 1]), "image.std is .* there, and"),
    "the interpolation": (lambda m: m["image"].update(interpolation="nearest"), "image.interpolation is 'nearest' the"),
    "the resizing": (lambda m: m["image"].update(resize=9), "image.resize is 9 there, and 0 in '"),
    "the size": (lambda m: m["image"].update(size=[9, 8]), "image.size is .9, 8. there, and .8, 8. in '"),
    "a threshold": (lambda m: m.update(open_set={"threshold": 0.5}), "open_set is .*0.5.* there, and None in '"),
}
IMAGES = {
    "no layout": (lambda i: i.update(layout="NCHW"), "layout is 'NCHW' .allowed: NHWC."),
    "a way to resize": (lambda i: i.update(interpolation="magic"), "interpolation'? is 'magic'"),
    "a mean too few": (lambda i: i.update(mean=[0.5]), "mean is .* and not 3 finite numbers|the number Infinity"),
    "an infinite mean": (
        lambda i: i.update(mean=[0.5, 0.5, float("inf")]),
        "mean is .* and not 3 finite numbers|the number Infinity",
    ),
    "a std of nothing": (lambda i: i.update(std=[0.5, 0.5, 0.0]), "std is .* and must be above 0"),
    "four channels": (lambda i: i.update(channels=4), "size .* and 4 channels|'image.channels' is 4"),
    "a huge side": (
        lambda i: i.update(size=[8, 10**9]),
        r"are not two sides and one, up to 16384 pixels|'image.size\[1\]' is 1000000000",
    ),
    "a side of text": (lambda i: i.update(size=["8", "8"]), "are not two sides and one|'image.(size|resize)"),
    "three sides": (lambda i: i.update(size=[8, 8, 8]), "are not two sides and one|'image.(size|resize)"),
    "a negative size": (lambda i: i.update(resize=-1), "are not two sides and one|'image.(size|resize)"),
}


@pytest.fixture(scope="module")
def made(assembly, toy, artifacts, tmp_path_factory):
    """By name: a folder, and its manifest's name; of every kind and target that is here, none of them altered."""
    found = {"assembly": assembly.path, "onnx": artifacts[0].path, "openvino": artifacts[1].path}
    out = tmp_path_factory.mktemp("made")
    found["trt"] = export(assembly, "trt", out=out).path
    for precision in ("fp16", "int8"):
        found[precision] = export(assembly, "onnx", precision=precision, out=out).path
    if MNN:
        found["mnn"] = export(assembly, "mnn", out=out).path
    return found


@pytest.fixture
def copy(made, tmp_path):
    def copied(name):
        place = shutil.copytree(made[name], tmp_path / "copy" / name)
        return place, place / ("assembly.json" if name == "assembly" else "manifest.json")

    return copied


@pytest.mark.parametrize("name", ["assembly", "onnx", "openvino", "trt", "fp16", "int8", "mnn"])
def test_what_a_manifest_says_is_held_to_the_model(name, made, copy):
    if name not in made:
        pytest.skip("MNN is not installed")
    place, path = copy(name)
    whole = path.read_text(encoding="utf-8")
    opener = Model if name == "assembly" else Artifact
    opener.open(place).check()
    for what, (change, message) in CHANGES.items():
        edit(path, change)
        if name != "assembly":  # as whoever alters one thing would alter what follows from it
            edit(
                path, lambda m: m["outputs"].update(logits=["float32", "N", sum(len(t["classes"]) for t in m["tasks"])])
            )
            edit(path, lambda m: m["inputs"].update(image=["uint8", "N", *m["image"]["size"], 3]))
            edit(path, lambda m: m["outputs"].update({"known": ["float32", "N"]} if m.get("open_set") else {}))
        with pytest.raises(PoolError, match=message):
            opener.open(place).check()
            pytest.fail(what)
        path.write_text(whole, encoding="utf-8")
    for change, message in IMAGES.values():
        edit(path, lambda m, change=change: change(m["image"]))
        with pytest.raises(PoolError, match=message):
            opener.open(place)
        path.write_text(whole, encoding="utf-8")


def test_every_verb_that_reads_a_model_refuses_it(copy, toy, tmp_path):
    place, path = copy("assembly")
    edit(path, swap_classes)
    image = toy.data / "test" / "cat" / "000.png"
    reads = [verify, lambda p: export(p, "onnx", out=tmp_path / "out"), lambda p: predict(p, [image]), open_whole]
    for read in reads:
        with pytest.raises(PoolError, match="does not describe the model beside it: task 'sea horse' is"):
            read(place)
    place, path = copy("onnx")
    edit(path, swap_classes)
    for read in (verify, lambda p: predict(p, [image]), lambda p: benchmark([p], quick=True)):
        with pytest.raises(PoolError, match="does not describe the model beside it: task 'sea horse' is"):
            read(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(name="other"), "name is 'other' there, and 'assembly' in 'model.onnx'"),
        (lambda m: m.update(kind="student"), "is not among the files"),
        (lambda m: m["provenance"]["pool"].update(name="other"), "pool.name is 'other' there, and 'toy' in"),
        (
            lambda m: m["files"].pop("model.onnx"),
            "'model.onnx' is not among the files|has 'model.onnx', which is not among its files",
        ),
        (lambda m: m.update(fuse="branches"), "says that its graph is 'branches', and it is a bank"),
        (lambda m: m.update(fuse="x"), "says that its graph is 'x', and it is a bank|'fuse' is 'x'"),
        (lambda m: m.update(name="../../x"), r"is '\.\./\.\./x', which cannot be the name of a folder"),
        (lambda m: m.update(name="/x"), "is '/x', which cannot be the name of a folder"),
        (lambda m: m.update(open_set={"threshold": float("inf")}), "open_set is .*inf.* there|the number Infinity"),
        (lambda m: m.update(open_set={"threshold": float("nan")}), "open_set is .*nan.* there|the number NaN"),
        (
            lambda m: m.update(open_set=[]),
            "open_set is .. there|threshold of its open set is None|'open_set' is .., and not a table",
        ),
    ],
)
def test_what_an_assembly_says_of_itself(change, message, copy):
    place, path = copy("assembly")
    edit(path, change)
    with pytest.raises(PoolError, match=message):
        Model.open(place).check()
        _ = Model.open(place).thresholds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["model"].update(name="../x"), r"is '\.\./x', which cannot be the name of a folder"),
        (lambda m: m["model"].update(name="other"), "name is 'other' there, and 'assembly' in"),
        (lambda m: m["model"].update(kind="teacher"), "kind is 'teacher' there, and 'assembly' in"),
        (lambda m: m["files"].pop("golden.npz"), "'golden.npz' is not among the files"),
        (
            lambda m: m["files"].pop("model.onnx"),
            "'model.onnx' is not among the files|has 'model.onnx', which is not among its files",
        ),
        (
            lambda m: m.update(model_files=[]),
            "names the model files .. .allowed: model.onnx.|'model_files' is a list of 0",
        ),
        (lambda m: m.update(model_files=["golden.npz"]), "names the model files .*allowed: model.onnx"),
        (lambda m: m.update(model_files=["../x"]), "names a file outside it: '../x'"),
        (lambda m: m.update(precision="int8"), "has the precision 'int8', and as an option 'fp32'"),
        (
            lambda m: (m.update(precision="int8"), m["options"].update(precision="int8")),
            "precision is 'int8' there, and",
        ),
        (
            lambda m: (m.update(precision="x"), m["options"].update(precision="x")),
            "has the precision 'x'.*allowed: fp32",
        ),
        (lambda m: m["options"].update(batch=-1), "has the batch -1|'options.batch' is -1"),
        (lambda m: m["options"].update(batch="all"), "has the batch 'all'|'options.batch' is 'all'"),
        (lambda m: m["options"].update(batch=4), "inputs.image is .* there, and .* in"),
        (lambda m: m["outputs"].update(logits=["float32", "N", 2]), "outputs.logits is .*2. there, and .*3. in"),
        (lambda m: m["outputs"].update(more=["float32"]), "outputs.more is"),
        (lambda m: m["inputs"].pop("image"), "inputs.image is None there"),
    ],
)
def test_what_an_artifact_says_of_itself(change, message, copy):
    place, path = copy("onnx")
    edit(path, change)
    with pytest.raises(PoolError, match=message):
        Artifact.open(place).check()


def test_options_that_a_target_does_not_have(copy):
    place, path = copy("onnx")
    edit(path, lambda m: m["options"].update(speed=9))
    with pytest.raises(PoolError, match="has options that .*speed"):
        verify(place)


def test_a_bound_is_computed_and_not_read(copy):
    place, path = copy("onnx")
    edit(path, lambda m: m["verify"].update(engine_tolerance=1e300, tolerance=1e300, difference=0.0))
    assert verify(place).tolerance < 1e-2
    with np.load(place / "golden.npz") as arrays:
        known = dict(arrays)
    for name in ("expected", "logits"):
        for wrong, message in ((1.0, "and 0.000.* is allowed"), (np.inf, "golden logits are not finite: sample 0, column 1"),
                               (np.nan, "golden logits are not finite"), (1e30, "is allowed")):  # fmt: skip
            altered = {key: value.copy() for key, value in known.items()}
            altered[name][0, 1] += wrong
            np.savez(place / "golden.npz", **altered)
            edit(path, lambda m: m["files"].update(describe_files(place, [place / "golden.npz"])))
            with pytest.raises(Exception, match=message) as caught:
                verify(place)
            assert type(caught.value).__name__ == "ParityError"


@pytest.mark.parametrize("keep", [0, 1])
def test_golden_samples_that_prove_nothing(keep, copy):
    place, path = copy("onnx")
    with np.load(place / "golden.npz") as arrays:
        altered = dict(arrays)
    if keep:
        altered["image"] = altered["image"].astype(np.float32)
    else:
        altered |= {key: altered[key][:0] for key in ("image", "logits", "expected")}
    np.savez(place / "golden.npz", **altered)
    edit(path, lambda m: m["files"].update(describe_files(place, [place / "golden.npz"])))
    with pytest.raises(
        Exception,
        match="golden images of .* prove nothing .allowed: one uint8 image or more|is of float32 .allowed: uint8",
    ):
        verify(place)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_a_tolerance_that_is_none_is_refused(value, artifacts, tmp_path):
    for call in (
        lambda: verify(artifacts[0].path, atol=value),
        lambda: export(tmp_path / "none", "onnx", atol=value),
    ):
        with pytest.raises(Exception, match=r"--atol is .* .allowed: a number from 0 on"):
            call()


def altered_graph(place, change, manifest="assembly.json"):
    """Change an ONNX file, and its hash in the manifest."""
    graph = onnx.load(place / "model.onnx")
    change(graph)
    (place / "model.onnx").write_bytes(graph.SerializeToString())
    edit(place / manifest, lambda m: m["files"].update(describe_files(place, [place / "model.onnx"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.metadata_props.pop(), "says 0 times what it is|names its classes twice"),
        (
            lambda g: g.metadata_props.extend([g.metadata_props[1]]),
            "says 2 times what it is|duplicate keys in metadata_props",
        ),
        (lambda g: setattr(g.metadata_props[1], "value", "{"), "says of itself cannot be read"),
        (lambda g: setattr(g.metadata_props[1], "value", "[]"), "says that it is .."),
        (lambda g: setattr(g.metadata_props[0], "value", '["dog", "cat", "sea horse"]'), "names its classes twice"),
        (
            lambda g: setattr(g.graph.output[0], "name", "other"),
            "gives other, and its manifest says logits|nothing makes its output 'other'",
        ),
        (
            lambda g: setattr(g.graph.input[0], "name", "other"),
            "takes .*other.*, and its manifest says images of|reads 'image', which nothing before it makes",
        ),
        (
            lambda g: setattr(g.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 2),
            "gives 2 logits, and its manifest names 3 classes",
        ),
        (
            lambda g: setattr(g.graph.initializer[0], "data_location", onnx.TensorProto.EXTERNAL),
            "the weights? .* in another file",
        ),
    ],
)
def test_a_graph_that_says_nothing_or_something_else(change, message, copy):
    place, _ = copy("assembly")
    altered_graph(place, change)
    with pytest.raises(PoolError, match=message):
        Model.open(place).check()
    place, _ = copy("onnx")
    altered_graph(place, change, "manifest.json")
    with pytest.raises(PoolError, match=message):
        Artifact.open(place).check()


def test_what_is_no_onnx_at_all(copy):
    place, path = copy("assembly")
    (place / "model.onnx").write_bytes(b"\x0b\x01" * 9)
    edit(path, lambda m: m["files"].update(describe_files(place, [place / "model.onnx"])))
    with pytest.raises(PoolError, match="is no ONNX"):
        verify(place)


def test_the_parts_are_held_to_the_assembly(copy):
    place, _ = copy("assembly")
    edit(place / "parts" / "pool.json", lambda m: m["tasks"].reverse())
    with pytest.raises(PoolError, match="names the tasks sea horse, pets, and 'parts' has pets, sea horse"):
        verify(place)


@pytest.mark.parametrize("change", [lambda t: t + 0.5, lambda _: float("inf"), lambda _: 1e300, lambda _: None])
def test_a_threshold_is_the_model_s_own(change, toy, tmp_path):
    made = assemble(toy.pool, ["pets", "élan"], tmp_path / "open", open_set=0.1)
    exported = export(made, "onnx", out=tmp_path / "out")
    verify(made.path)
    verify(exported.path)
    for place, name in ((made.path, "assembly.json"), (exported.path, "manifest.json")):
        edit(place / name, lambda m: m["open_set"].update(threshold=change(m["open_set"]["threshold"])))
        with pytest.raises(PoolError, match="threshold"):
            verify(place)


def test_a_task_s_own_files_say_whose_they_are(pool):
    edit(pool / "pool.json", swap_classes)
    with pytest.raises(PoolError, match="'tasks/pets.safetensors' is of task 'pets' with the classes cat, dog, and"):
        verify(pool)


def test_a_task_s_files_are_not_another_s(pool):
    def change(manifest):
        one, other = manifest["tasks"][1], manifest["tasks"][2]  # a class each
        one["file"], other["file"] = other["file"], one["file"]

    edit(pool / "pool.json", change)
    describe(pool)
    with pytest.raises(PoolError, match="is of task 'élan' with the classes élan, and"):
        verify(pool)


def test_the_kind_of_number_that_an_image_is_has_to_fit(assembly):
    graph, shape, widths = identity.load_graph(assembly.graph), assembly.image.shape, {"logits": len(assembly.classes)}
    identity.require_shape(graph, assembly.graph, shape, widths, {})
    with pytest.raises(PoolError, match="takes images as uint8, and its manifest says float32"):
        identity.require_shape(graph, assembly.graph, shape, widths, {}, "float32")


def test_a_model_of_openvino_that_is_no_text_is_told(tmp_path):
    (tmp_path / "model.xml").write_bytes(b'<?xml version="1.0"?><net\xff/>')
    with pytest.raises(PoolError, match=r"model\.xml' cannot be read: 'utf-8' codec can't decode"):
        told_by_openvino(tmp_path / "model.xml")
    with pytest.raises(PoolError, match=r"'.*nowhere\.xml' cannot be read: No such file"):
        told_by_openvino(tmp_path / "nowhere.xml")
