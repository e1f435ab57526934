"""Pools that have grown: a task put into a pool as `factorize --add-task` does, without training it."""

import json
import shutil

import numpy as np

from kfdeploy.data.sources import load_split
from kfdeploy.files import about_of, dump_json, load_tensors, save_tensors
from kfdeploy.graph.compose import compose
from kfdeploy.manifest import POOL, describe_files
from kfdeploy.pool.edit import merge, remove
from kfdeploy.pool.manifest import SHARED
from kfdeploy.pool.pool import Pool


def images_of(pool, rows):
    about = pool.recipe["data"]
    split = load_split(about["source"], about["root"], "train", pool.image)
    place = {int(row): i for i, row in enumerate(split.rows)}
    return split.load([place[int(row)] for row in rows])


def rows_of(pool, name):
    """Return the rows of a class in the train split."""
    about = pool.recipe["data"]
    split = load_split(about["source"], about["root"], "train", pool.image)
    return split.rows[split.labels == split.classes.index(name)]


def logits_of(pool, names, images):
    """Run tasks side by side; return the logits of each."""
    import onnxruntime

    parts = [pool.part(task) for task in pool.choose(names)]
    graph = compose(*pool.graphs(), parts, "branches").SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    whole = session.run(None, {"image": images})[0]
    return np.split(whole, np.cumsum([len(part.head_bias) for part in parts])[:-1], axis=1)


def grow(root, name, rows, like="sea horse", seed=1):
    """Put the task `name`, of the one class `name`, into a pool in place; the rows are its validation images."""
    pool = Pool.open(root)
    manifest = json.loads((root / POOL).read_text(encoding="utf-8"))
    before = [entry["name"] for entry in manifest["tasks"]]
    weights = load_tensors(root / pool.entry(pool.choose([like])[0])["file"])
    random = np.random.default_rng(seed)
    weights = {key: (v * random.uniform(0.9, 1.1, v.shape)).astype(np.float32) for key, v in weights.items()}
    entry = {"name": name, "classes": [name], "kind": "classification", "file": f"tasks/{name}.safetensors",
             "evidence": f"evidence/{name}.safetensors"}  # fmt: skip
    save_tensors(root / entry["file"], weights, {"schema": 1, "kind": "task", "task": name, "classes": [name]})
    like_entry = pool.entry(pool.choose([like])[0])
    if "calibration" in like_entry:
        entry["calibration"] = f"calibration/task-{name}.json"
        (root / entry["calibration"]).write_bytes((root / like_entry["calibration"]).read_bytes())
    block = {"task": name, "file": f"evidence/added-{name}.safetensors", "classes": [name]}
    manifest["tasks"].append(entry)
    blocks = manifest.setdefault("blocks", [])
    manifest["files"] |= describe_files(root, [root / entry[k] for k in ("file", "calibration") if k in entry])
    (root / POOL).write_text(dump_json(manifest), encoding="utf-8")
    pool = Pool.open(root)
    shared = load_tensors(root / SHARED)
    own = {"golden.logits": shared["golden.images"], "validation.logits": images_of(pool, shared["validation.rows"])}
    for other in blocks:
        own[f"validation.logits/{other['task']}"] = images_of(
            pool, load_tensors(root / other["file"])["validation.rows"]
        )
    own[f"validation.logits/{name}"] = images_of(pool, rows)
    own = {key: logits_of(pool, [name], images)[0] for key, images in own.items()}
    about = {"schema": 1, "kind": "evidence", "task": name, "classes": [name]}
    save_tensors(root / entry["evidence"], own, about)
    logits = dict(zip(before, logits_of(pool, before, images_of(pool, rows)), strict=True))
    about = pool.recipe["data"]
    content = load_split(about["source"], about["root"], "train", pool.image).contents()[np.asarray(rows)]
    arrays = {"validation.labels": np.zeros(len(rows), np.int64), "validation.rows": np.asarray(rows)}
    arrays["validation.content"] = content
    arrays |= {f"logits/{task}": columns for task, columns in logits.items()}
    save_tensors(root / block["file"], arrays, {"schema": 1, "kind": "evidence"})
    blocks.append(block)
    manifest["files"] |= describe_files(root, [root / entry["evidence"], root / block["file"]])
    (root / POOL).write_text(dump_json(manifest), encoding="utf-8")
    Pool.open(root).check()


def retrain(pool, name="tasks/pets.safetensors"):
    """Change a task's weights a little, as if it had been trained again; its golden logits follow."""
    arrays = load_tensors(pool / name)
    arrays["head.bias"] += 0.5
    again(pool / name, arrays)
    golden = load_tensors(pool / "evidence" / "pets.safetensors")
    golden["golden.logits"] += 0.5
    again(pool / "evidence" / "pets.safetensors", golden)
    describe(pool, name, "evidence/pets.safetensors")


def again(path, arrays):
    """Write other arrays into a file, which goes on saying whose it is."""
    save_tensors(path, arrays, about_of(path.read_bytes()))


def describe(pool, *names):
    """Write the files' new hashes into the manifest."""
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"] |= describe_files(pool, [pool / name for name in names])
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")


def grown_apart(pool, folder):
    """Add `fish` to a pool and `eel` to a copy of it, put eel alone beside the first, and return the merged pool."""
    junk = rows_of(Pool.open(pool), "junk")
    shutil.copytree(pool, folder / "other")
    grow(pool, "fish", junk[:6])
    grow(folder / "other", "eel", junk[6:], seed=2)
    old = [task.name for task in Pool.open(folder / "other").tasks if task.name != "eel"]
    return merge(pool, remove(folder / "other", old, folder / "eel"), folder / "merged")
