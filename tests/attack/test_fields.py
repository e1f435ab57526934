"""What schema 2 says, altered: whoever reads it refuses it in one line, or reads what it was; nothing is a traceback."""

import json
import random
import shutil

import pytest
from fields import field_pool

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import KfdeployError
from kfdeploy.files import load_tensors, save_tensors
from kfdeploy.manifest import describe_files
from kfdeploy.pool.edit import merge, remove
from kfdeploy.pool.plan import Subsets
from kfdeploy.pool.pool import Pool

ODD = (None, 7, -1, 1 << 70, 0.5, float("nan"), True, "", "x", "../x", "class", "shape", "logits", "a\nb", "x" * 5000, [], ["x"],
       [7], {}, {"x": {}}, {"class": {"kind": "classes", "classes": ["cat"], "coupling": "joint"}})  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pool = field_pool(root / "pool", calibrated=False)
    model = assemble(pool, ["edged", "lit", "pets"], root / "assembly")
    export(model, "onnx", out=root / "artifacts")
    (root / "artifacts" / "assembly-onnx-fp32").rename(root / "artifact")
    return root


def leaves(value, path=()):
    """Give the path of everything inside a manifest."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from leaves(each, (*path, key))


def put(manifest, path, value):
    at = manifest
    for key in path[:-1]:
        at = at[key]
    if value is Ellipsis:
        del at[path[-1]]
    else:
        at[path[-1]] = value


def said_of(call):
    """Return what a call is refused with; nothing where it ends well. Whatever else it raises leaves it."""
    try:
        call()
    except KfdeployError as error:
        return str(error)
    return ""


def whole_pool(root):
    pool = Pool.open(root)
    pool.check()
    pool.evidence()
    Subsets.of_pool(pool).every()
    pool.prove()


@pytest.mark.parametrize(
    ("name", "file", "said", "read"),
    [
        ("pool", "pool.json", ("fields", "faces", "templates", "tasks", "schema"), whole_pool),
        ("assembly", "assembly.json", ("tasks", "schema", "accuracy"), lambda root: Model.open(root).check()),
        ("artifact", "manifest.json", ("tasks", "schema", "outputs"), lambda root: Artifact.open(root).check()),
    ],
)
def test_one_value_of_a_manifest_altered(world, tmp_path, name, file, said, read):
    shutil.copytree(world / name, tmp_path / name)
    place = tmp_path / name / file
    manifest, draw = json.loads(place.read_text(encoding="utf-8")), random.Random(name)
    read(tmp_path / name)
    paths = [path for path in leaves(manifest) if path[0] in said]
    refused = 0
    for path, value in draw.sample([(path, value) for path in paths for value in (*ODD, ...)], 150):
        wrong = json.loads(json.dumps(manifest))
        put(wrong, path, value)
        place.write_text(json.dumps(wrong), encoding="utf-8")
        message = said_of(lambda: read(tmp_path / name))
        assert "\n" not in message or value == "a\nb", (path, value)
        refused += bool(message)
    assert refused > 100


def test_labels_and_logits_altered(world, tmp_path):
    shutil.copytree(world / "pool", tmp_path / "pool")
    place, draw = tmp_path / "pool" / "evidence" / "shared.safetensors", random.Random(1)
    whole, manifest = load_tensors(place), (tmp_path / "pool" / "pool.json").read_text(encoding="utf-8")
    for _ in range(40):
        arrays = {name: array.copy() for name, array in whole.items()}
        name = draw.choice(sorted(arrays))
        what = draw.randrange(5)
        if what == 0:
            del arrays[name]
        elif what == 1:
            arrays[name] = arrays[name][: draw.randrange(3)]
        elif what == 2:
            arrays[name] = arrays[name].astype("float32")
        elif what == 3:
            arrays[name] = arrays[name].reshape(-1)[: draw.randrange(200)]
        else:
            arrays[name].reshape(-1)[draw.randrange(10)] = (
                99 if arrays[name].dtype == "uint8" else draw.choice((-2, -1, 99))
            )
        save_tensors(place, arrays, {"schema": 1, "kind": "evidence"})
        told = json.loads(manifest)
        told["files"] |= describe_files(tmp_path / "pool", [place])
        (tmp_path / "pool" / "pool.json").write_text(json.dumps(told), encoding="utf-8")
        assert "\n" not in said_of(lambda: whole_pool(tmp_path / "pool"))


def test_pools_that_were_altered_are_not_put_together_with_a_traceback(world, tmp_path):
    pool = Pool.open(world / "pool")
    first = remove(pool, ["lit", "pets", "sea horse"], tmp_path / "first")
    second = remove(pool, ["round", "edged"], tmp_path / "second")
    place, draw = second.path / "pool.json", random.Random(2)
    manifest = json.loads(place.read_text(encoding="utf-8"))
    paths = [path for path in leaves(manifest) if path[0] in ("fields", "tasks", "templates")]
    for path, value in draw.sample([(path, value) for path in paths for value in (*ODD, ...)], 40):
        wrong = json.loads(json.dumps(manifest))
        put(wrong, path, value)
        place.write_text(json.dumps(wrong), encoding="utf-8")
        message = said_of(lambda: merge(first, second.path, tmp_path / "both", force=True))
        assert "\n" not in message or value == "a\nb", (path, value)
