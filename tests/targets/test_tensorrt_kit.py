"""TensorRT's device kit under the fakes: what is built, what is refused, what is left behind."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trt_fakes
from trt_kit import KIT, VERSIONS, artifact, build, install, session

from kfdeploy.deploy.prepare import prepare_for
from kfdeploy.targets import tensorrt as target


@pytest.fixture
def world(monkeypatch):
    return install(monkeypatch, VERSIONS[11])


@pytest.mark.parametrize("major", VERSIONS)
def test_an_engine_is_built_from_a_graph_with_a_dynamic_batch(major, assembly, tmp_path, monkeypatch, capsys):
    world = install(monkeypatch, VERSIONS[major])
    artifact(tmp_path, assembly, min_batch=1, opt_batch=4, max_batch=16, workspace_mb=64, optimization_level=5)
    build(tmp_path, monkeypatch)
    assert world.of("create_network") == [(2 if major == 10 else 0,)]  # the fake's STRONGLY_TYPED is 1
    assert world.of("clear_flag") == [("TF32",)]
    assert world.of("set_memory_pool_limit") == [("WORKSPACE", 64 << 20)]
    assert world.of("set_shape") == [("image", (1, 8, 8, 3), (4, 8, 8, 3), (16, 8, 8, 3))]
    assert world.of("build") == [(5, "DETAILED")]
    assert world.names().index("clear_flag") < world.names().index("build")
    assert world.of("Logger") == [("WARNING",)]
    record = json.loads((tmp_path / "engine.json").read_text())
    assert (record["tensorrt"], record["gpu"], record["profile"]) == (VERSIONS[major], "Fake 1000", [1, 4, 16])
    assert capsys.readouterr().out.endswith("next: python check.py\n")
    assert not list(tmp_path.glob(".*"))


def test_a_fixed_batch_has_no_profile(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, batch=4)
    build(tmp_path, monkeypatch, "--verbose")
    assert "set_shape" not in world.names()
    assert "add_optimization_profile" not in world.names()
    assert json.loads((tmp_path / "engine.json").read_text())["profile"] == [4, 4, 4]
    assert world.of("Logger") == [("INFO",)]


def test_the_timing_cache_is_used_again(assembly, tmp_path, monkeypatch, world, capsys):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)
    build(tmp_path, monkeypatch)
    assert world.of("create_timing_cache") == [(b"",), (trt_fakes.CACHE,)]
    assert world.of("set_timing_cache") == [(False,), (False,)]
    world.done.clear()
    world.fresh_cache_only = True
    build(tmp_path, monkeypatch)
    assert world.of("create_timing_cache") == [(trt_fakes.CACHE,), (b"",)]
    assert "timing.cache is of another device, or damaged, and is made anew" in capsys.readouterr().err


def test_what_the_parser_does_not_read_is_printed(assembly, tmp_path, monkeypatch, world, capsys):
    artifact(tmp_path, assembly)
    world.errors = ("no such thing", "nor this")
    with pytest.raises(SystemExit, match=r"error: TensorRT does not read model.onnx \(2 errors, above\)"):
        build(tmp_path, monkeypatch)
    assert capsys.readouterr().err == "Conv 'conv_1': no such thing\nConv 'conv_1': nor this\n"
    assert not (tmp_path / "model.engine").exists()


def test_a_build_that_gives_nothing_leaves_nothing(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    before = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
    world.builds = False
    with pytest.raises(SystemExit, match="error: TensorRT could not build an engine"):
        build(tmp_path, monkeypatch)
    world.builds, world.profile_index = True, -1
    with pytest.raises(SystemExit, match=r"TensorRT does not take the batches \[1, 1, 32\]"):
        build(tmp_path, monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_an_engine_is_whole_or_not_there(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)
    whole = (tmp_path / "model.engine").read_bytes()
    renamed, replace = [], Path.replace

    def stop(path, other):
        renamed.append(other.name)
        if other.name == "model.engine":
            assert path.read_bytes() == whole
            raise KeyboardInterrupt
        return replace(path, other)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, monkeypatch)
    assert renamed == ["timing.cache", "model.engine"]
    assert (tmp_path / "model.engine").read_bytes() == whole
    assert not (tmp_path / "engine.json").exists()  # an engine of which nothing is known is refused
    with pytest.raises(SystemExit, match="there is no engine here"):
        session(tmp_path)


def test_other_versions_and_a_missing_tensorrt_are_refused(assembly, tmp_path, monkeypatch):
    artifact(tmp_path, assembly)
    for version in ("8.6.1", "9.3.0", "12.0.0"):
        install(monkeypatch, version)
        with pytest.raises(SystemExit, match=f"this is TensorRT {version}, and this kit knows 10 and 11"):
            build(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):  # which `kit.begin` explains
        build(tmp_path, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):
        session(tmp_path)


def test_a_machine_without_a_gpu_is_told(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    build(tmp_path, monkeypatch)

    def nothing(*_):
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(sys.modules["tensorrt"], "Builder", nothing)
    monkeypatch.setattr(sys.modules["tensorrt"], "Runtime", nothing)
    with pytest.raises(SystemExit, match="TensorRT does not start here"):
        build(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="TensorRT does not start here"):
        session(tmp_path)
    runtime = sys.modules["cuda.bindings.runtime"]
    monkeypatch.setattr(runtime, "cudaStreamCreate", lambda: (runtime.cudaError_t.cudaErrorInsufficientDriver, None))
    with pytest.raises(SystemExit, match="there is no GPU driver, or it is older than cuda-bindings"):
        session(tmp_path)
    monkeypatch.setattr(runtime, "cudaStreamCreate", lambda: (runtime.cudaError_t.cudaErrorMemoryAllocation, None))
    with pytest.raises(SystemExit, match="CUDA answers cudaErrorMemoryAllocation"):
        session(tmp_path)


def test_the_session_gives_what_the_graph_gives(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, max_batch=16)
    build(tmp_path, monkeypatch)
    images, golden = assembly.evidence().images, assembly.evidence().golden
    opened = session(tmp_path)
    assert (opened.smallest, opened.largest) == (1, 16)
    first = opened.run(images)
    assert np.abs(first - golden).max() <= 1e-4 * max(1, np.abs(golden).max())
    kept = first.copy()
    alone = np.concatenate([opened.run(images[i : i + 1]) for i in range(len(images))])
    assert np.array_equal(first, kept)  # the outputs belong to the caller
    assert np.abs(alone - first).max() <= 1e-5 * max(1, np.abs(first).max())
    assert np.array_equal(opened.run(images[::-1])[::-1], first)  # whatever the strides
    # every image is waited for, in the order of one stream
    assert {entry[-1] for entry in world.of("copy")} == {7}
    assert world.names()[-4:] == ["copy", "execute", "copy", "wait"]
    opened.close()
    assert not world.buffers
    assert world.of("destroy") == [(7,)]


def test_an_engine_that_takes_floats_gets_them(assembly, tmp_path, monkeypatch, world):
    images, made = assembly.evidence().images, []
    for kind in ("uint8", "float32"):
        folder = tmp_path / kind
        prepared = prepare_for(assembly, target, target.Options(input=kind))
        folder.mkdir()
        (folder / "source.onnx").write_bytes(prepared.graph.SerializeToString())
        own = SimpleNamespace(graph=folder / "source.onnx", manifest=assembly.manifest, name=assembly.name)
        artifact(folder, own, input=kind)
        build(folder, monkeypatch)
        opened = session(folder)
        made.append(opened.run(images))
        opened.close()
    np.testing.assert_allclose(made[1], made[0], atol=1e-6)
    with pytest.raises(SystemExit, match=r"model.engine was built with .* is asked for"):
        session(tmp_path / "float32", input="uint8")
    record = json.loads((tmp_path / "uint8" / "engine.json").read_text())
    del record["options"]["input"]  # as builds of 0.1.0 have it
    (tmp_path / "uint8" / "engine.json").write_text(json.dumps(record))
    session(tmp_path / "uint8").close()


def test_the_session_refuses_what_the_engine_does_not_take(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly, min_batch=2, opt_batch=2, max_batch=4)
    build(tmp_path, monkeypatch)
    images, opened = assembly.evidence().images, session(tmp_path)
    for count in (1, 5):
        with pytest.raises(SystemExit, match=f"{count} images were given at a time, and this engine takes 2 to 4"):
            opened.run(np.resize(images, (count, 8, 8, 3)))
    with pytest.raises(
        SystemExit, match=r"the images are float32 \(2, 8, 8, 3\), the engine takes uint8 \(N, 8, 8, 3\)"
    ):
        opened.run(images[:2].astype(np.float32))
    with pytest.raises(SystemExit, match=r"the images are uint8 \(2, 8, 7, 3\)"):
        opened.run(images[:2, :, :7])
    with pytest.raises(SystemExit, match="2 threads were asked for, and a GPU has none to set"):
        session(tmp_path, threads=2)


def test_the_session_refuses_an_engine_of_something_else(assembly, tmp_path, monkeypatch, world):
    artifact(tmp_path, assembly)
    with pytest.raises(SystemExit, match="there is no engine here: it is built on the device\nhint:  python build.py"):
        session(tmp_path)
    build(tmp_path, monkeypatch)
    session(tmp_path)
    with pytest.raises(SystemExit, match="model.engine was built with .*, and .*'max_batch': 8.* is asked for"):
        session(tmp_path, max_batch=8)
    world.loads = False
    with pytest.raises(SystemExit, match="TensorRT cannot load model.engine, which fits the GPU"):
        session(tmp_path)
    install(monkeypatch, "11.5.0")
    with pytest.raises(
        SystemExit, match=f"built by TensorRT {VERSIONS[11]}, and this is 11.5.0\nhint:  python build.py"
    ):
        session(tmp_path)
    target.convert(assembly.graph, tmp_path, target.Options(batch=4))
    with pytest.raises(SystemExit, match="model.engine was built from another model.onnx\nhint:  python build.py"):
        session(tmp_path)


def test_the_readme_says_what_is_there():
    text = (KIT / "README.md").read_text()
    assert "has not been run on a device yet" in text
    named = set(re.findall(r"python (\w+\.py)", text))
    assert named == {"build.py", "check.py", "run.py", "bench.py"}
    assert all(any((place / name).is_file() for place in (KIT, KIT.parent / "common")) for name in named)
