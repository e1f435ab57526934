"""One suite for every target: what a session and a conversion must do."""

import errno
import itertools

import numpy as np
import onnx
import pytest

from kfdeploy import targets, writing
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import convert, export
from kfdeploy.deploy.parity import allowed_in
from kfdeploy.deploy.prepare import prepare
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import MissingDependencyError, OutputError, PoolError, UnsupportedError
from kfdeploy.graph.reference import run_joined, tolerance
from kfdeploy.targets.base import Setup
from kfdeploy.targets.kits import kits
from kfdeploy.tasks.spec import joined, outputs_of, together

# A vector of one field, and several fields, as a bank and as branches.
VECTOR = [(precision, "class") for precision in ("fp32", "fp16", "int8")]
SEVERAL = [("fp32", "fields"), ("fp16", "fields"), ("int8", "fields"), ("fp32", "branches")]
NAMES = [name for name in sorted(targets.TARGETS) if name != "trt"]  # TensorRT's libraries cannot be had without a GPU


@pytest.fixture(params=NAMES)
def target(request):
    return targets.load(request.param)


@pytest.fixture(scope="module")
def models(assembly, fields, tmp_path_factory):
    """What targets convert, by name: outputs are of one field, or of several, two of them split."""
    out, names = tmp_path_factory.mktemp("models"), [task.name for task in fields.tasks]
    several = {name: assemble(fields, names, out / name, fuse=fuse)
               for name, fuse in (("fields", "bank"), ("branches", "branches"))}  # fmt: skip
    return {"class": assembly} | several


def written(target, model, folder, precision="fp32", **options):
    """Convert a model as `export` does; return the options, and what it is to give (N, C)."""
    setting = target.Options(precision=precision, **options)
    folder.mkdir(exist_ok=True)
    prepared = prepare(model, target.GRAPHS[precision])
    files = convert(target, setting, prepared, folder)
    assert all((folder / name).is_file() for name in files)
    return setting, run_joined(prepared.graph, model.evidence().images, outputs_of(model.tasks))


def test_it_is_named_as_the_table_says(target):
    assert target.missing() == ""
    assert "fp32" in target.GRAPHS
    assert target.Options().batch == 0
    assert targets.state(target.NAME).startswith(target.TITLE)
    assert (kits() / target.KIT / "session.py").is_file()


@pytest.mark.parametrize(("precision", "name"), [*VECTOR, *SEVERAL])
def test_it_gives_the_golden_logits_and_outputs_belong_to_the_caller(target, precision, name, models, tmp_path):
    model = models[name]
    setting, expected = written(target, model, tmp_path, precision)
    evidence = model.evidence()
    with target.open(tmp_path, setting, Setup()) as session:
        first = session.run({"image": evidence.images})
        session.synchronize()
        kept = joined(first, model.tasks).copy()
        session.run({"image": evidence.images[::-1].copy()})
        assert np.array_equal(joined(first, model.tasks), kept)
    assert sorted(first) == sorted(outputs_of(model.tasks))
    assert {array.dtype for array in first.values()} == {np.dtype(np.float32)}
    assert np.abs(kept - expected).max() <= allowed_in(precision, expected)


@pytest.mark.parametrize(("precision", "name"), [*VECTOR, ("fp32", "fields")])
def test_rows_of_a_batch_do_not_influence_one_another(target, precision, name, models, tmp_path):
    model = models[name]
    setting, _ = written(target, model, tmp_path, precision)
    images = model.evidence().images
    many = np.concatenate([images, images])  # 32
    with target.open(tmp_path, setting, Setup()) as session:

        def run(images):
            return joined(session.run({"image": images}), model.tasks)

        whole = run(many)
        alone = np.concatenate([run(many[i : i + 1]) for i in range(len(many))])
        other = run(np.concatenate([many[:1], 255 - many[1:]]))
    bound = 1e-5 * max(1, np.abs(whole).max()) if precision != "fp16" else allowed_in("fp16", whole)
    assert np.abs(whole - alone).max() <= bound
    assert np.abs(whole[0] - other[0]).max() <= bound


def test_int8_convolutions_execute_in_integers_and_weights_are_small(target, assembly, tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        setting, _ = written(target, assembly, tmp_path / precision, precision)
        place = tmp_path / precision
        weights = place / "model.bin" if (place / "model.bin").is_file() else next(place.iterdir())
        sizes[precision] = weights.stat().st_size
        found = target.executed(tmp_path / precision, setting)["convolutions"]
        if precision == "int8" and target.GRAPHS[precision] == "uint8":
            assert found == {"int8": 9}, found
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]  # toy weights: shares are measured on a real pool


@pytest.mark.parametrize(("batch", "name"), [(1, "class"), (4, "class"), (1, "branches"), (4, "fields")])
def test_a_fixed_batch_is_fixed(target, batch, name, models, tmp_path):
    model = models[name]
    setting, expected = written(target, model, tmp_path, batch=batch)
    images = model.evidence().images
    with target.open(tmp_path, setting, Setup(threads=2)) as session:
        found = joined(session.run({"image": images[:batch]}), model.tasks)
        assert np.abs(found - expected[:batch]).max() <= 1e-4 * max(1, np.abs(expected).max())
        with pytest.raises(Exception):  # noqa: B017, PT011 - each runtime has its own
            session.run({"image": images[: batch + 1]})


def test_what_is_executed_is_read_back(target, assembly, tmp_path):
    setting, _ = written(target, assembly, tmp_path)
    found = target.executed(tmp_path, setting)
    assert set(found) == {"device", "convolutions", "nodes"}
    assert set(found["convolutions"]) <= {"fp32"}  # an fp32 row really is fp32


def test_converting_twice_gives_the_same_graph(target, assembly, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files = target.convert(assembly.graph, tmp_path / name, target.Options())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_not_there_says_so():
    with pytest.raises(UnsupportedError, match="there is no target 'openvin'") as caught:
        targets.load("openvin")
    assert caught.value.exit_code == 2
    assert caught.value.hint == "did you mean 'openvino'?"
    with pytest.raises(UnsupportedError, match="there is no target 'tensorrt'") as caught:
        targets.load("tensorrt")
    assert caught.value.hint == "did you mean 'trt'?"
    for name in NAMES:
        with pytest.raises(UnsupportedError, match=f"target '{name}' has no precision 'int4'"):
            targets.load(name, "int4")


def test_a_runtime_too_old_says_so(monkeypatch):
    monkeypatch.setattr(targets, "versions", lambda name: {name: "1.14.1"})
    with pytest.raises(MissingDependencyError, match=r"ONNX Runtime 1\.14\.1 is too old: target 'onnx' needs 1\.15"):
        targets.load("onnx")
    assert "is too old" in targets.state("onnx")


def test_a_graph_that_openvino_does_not_know_and_a_full_disk(tmp_path, assembly, monkeypatch):
    module = targets.load("openvino")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(UnsupportedError, match="OpenVINO cannot convert the model"):
        module.convert(tmp_path / "bad.onnx", tmp_path, module.Options())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write", full)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        module.convert(tmp_path / "bad.onnx", tmp_path, module.Options())


def test_a_missing_runtime_says_what_to_type(monkeypatch):
    import kfdeploy.targets.openvino as module

    monkeypatch.setattr(module, "missing", lambda: "pip install it")
    with pytest.raises(MissingDependencyError, match="the runtime of target 'openvino' is not installed") as caught:
        targets.load("openvino")
    assert caught.value.hint == "pip install it"
    assert "is not installed" in targets.state("openvino")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_images_may_be_taken_as_floats(target, precision, assembly, tmp_path):
    """Said by `--input float32`: the model's file takes other numbers, and whoever runs it gives bytes as before."""
    one = export(assembly, target.NAME, precision=precision, out=tmp_path / "bytes")
    other = export(assembly, target.NAME, precision=precision, out=tmp_path / "floats", input="float32")
    assert (one.input, other.input) == ("uint8", "float32")
    assert one.manifest["inputs"]["image"][0] == "uint8"
    assert other.manifest["inputs"]["image"][0] == other.manifest["options"]["input"] == "float32"
    other.check()
    assert verify(other.path).passed
    images = assembly.evidence().images
    found = []
    for artifact in (one, other):
        with artifact.session(Setup()) as session:
            found.append(session.run({"image": images})["logits"])
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * max(1, np.abs(found[0]).max())
    place = other.path / "manifest.json"
    place.write_text(place.read_text(encoding="utf-8").replace('"float32"', '"uint8"', 1), encoding="utf-8")
    with pytest.raises(PoolError, match="does not describe the model beside it"):
        Artifact.open(other.path).check()


def test_what_it_does_not_take_is_refused(target):
    with pytest.raises(UnsupportedError, match="--input is 'float16'") as caught:
        target.Options(input="float16")
    assert "uint8, float32" in str(caught.value)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_int8_heads_may_be_plain_convolutions(name, assembly, toy, tmp_path):
    made = export(assembly, name, precision="int8", int8_head="conv", out=tmp_path)
    assert made.options.int8_head == "conv"
    if name == "onnx":
        operators = [node.op_type for node in onnx.load(made.path / "model.onnx").graph.node]
        assert not {"Gather", "Unsqueeze", "Reshape", "ReduceSum"} & set(operators)  # OpenCV 4 runs it, at any batch
    exact = export(assembly, name, precision="int8", out=tmp_path / "exact")
    assert exact.options.int8_head == "exact"
    images = assembly.evidence().images
    found = []
    for artifact in (made, exact):
        with artifact.session(Setup()) as session:
            found.append(session.run({"image": images})["logits"])
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * max(1, np.abs(found[0]).max())  # of another order of sums
    with pytest.raises(UnsupportedError, match="--int8-head is 'conv', and the precision is fp32"):
        export(assembly, name, int8_head="conv", out=tmp_path)
    with pytest.raises(UnsupportedError, match="its head is a plain one as it is"):
        export(toy.students / "small", name, precision="int8", int8_head="conv", out=tmp_path)
    with pytest.raises(UnsupportedError, match="--int8-head is 'con'"):
        export(assembly, name, precision="int8", int8_head="con", out=tmp_path)
    with pytest.raises(UnsupportedError, match="target 'mnn' has no option 'int8_head'"):
        export(assembly, "mnn", precision="int8", int8_head="conv", out=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bank", "branches"])
@pytest.mark.parametrize("name", NAMES)
def test_every_subset_of_a_pool_of_several_fields_has_parity(name, form, fields, tmp_path):
    """31 subsets of five tasks over three fields; ONNX Runtime's are in `tests/graph/test_fields.py` too."""
    module, whole = targets.load(name), fields.evidence()
    place = {column: i for i, column in enumerate(fields.classes)}
    for count in range(1, len(fields.tasks) + 1):
        for chosen in itertools.combinations(fields.tasks, count):
            tasks, folder = together(chosen), tmp_path / f"{count}-{'-'.join(task.name for task in chosen)}"
            folder.mkdir()
            onnx.save(fields.graph(tasks, form), folder / "graph.onnx")
            module.convert(folder / "graph.onnx", folder, module.Options())
            golden = whole.golden[:, [place[column] for task in tasks for column in task.columns]]
            with module.open(folder, module.Options(), Setup()) as session:
                found = joined(session.run({"image": whole.images}), tasks)
            assert np.abs(found - golden).max() <= tolerance(golden), (name, form, folder.name)
