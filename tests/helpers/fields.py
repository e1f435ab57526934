"""Pools of several fields, made without training: another pool's graphs, random heads, and numpy for the evidence.

The torch network that a real pool is proved against is here the algebra written out: W z + b + (W A) u, in float64, of
what the common graph and the template give for each task by itself.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from kfdeploy.files import dump_json, save_tensors
from kfdeploy.graph.compose import Part
from kfdeploy.graph.ranges import pool_ranges
from kfdeploy.graph.reference import run
from kfdeploy.manifest import POOL, describe_files
from kfdeploy.pool.manifest import SHARED, owned, task_files
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.ranges import write_pool_ranges
from kfdeploy.tasks.evidence import labels_key
from kfdeploy.tasks.spec import TaskSpec, class_names, fields_of, together

# Five tasks over three fields, two of which are split in parts of unequal sizes; one has a name that files dislike.
TASKS = (
    TaskSpec("round", ("circle", "ellipse"), field="shape"),
    TaskSpec("edged", ("square", "heart", "star"), field="shape"),
    TaskSpec("lit", ("no", "yes"), field="lit, at dusk/é"),
    TaskSpec("pets", ("cat", "dog")),
    TaskSpec("sea horse", ("sea horse",)),
)
RECORD = Path(__file__).parents[1] / "records" / "0.1.0" / "pool"
SAMPLES, SEEN = 16, 60


def pictures(shape, count, seed):
    """Return images (N, H, W, C) of a few colours and some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 2, 2, shape[2]))
    base = coarse.repeat((shape[0] + 1) // 2, 1).repeat((shape[1] + 1) // 2, 2)[:, : shape[0], : shape[1]]
    return np.clip(base + random.integers(-40, 40, base.shape), 0, 255).astype(np.uint8)


def seen_images(pool):
    """Return the images (V, H, W, C) that the validation logits of such a pool are of."""
    return pictures(pool.image.shape, SEEN, 2)


def logits_of(pool, parts, images):
    """Return each task's logits (N, c) on images, by numpy from what the two graphs give."""
    common, template = pool.graphs()
    z, tap = (output.name for output in common.graph.output)
    found = run(common, images, (z, tap))
    flat = found[z].reshape(len(images), -1).astype(np.float64)
    each = []
    for part in parts:
        own = onnx.ModelProto()
        own.CopyFrom(template)
        for tensor in own.graph.initializer:
            if tensor.name in part.weights:
                tensor.CopyFrom(numpy_helper.from_array(part.weights[tensor.name], tensor.name))
        u = run(own, found[tap], (template.graph.output[0].name,))[template.graph.output[0].name]
        wide = flat @ part.head_z.T + part.head_bias + u.reshape(len(images), -1).astype(np.float64) @ part.head_u.T
        each.append(wide.astype(np.float32))
    return each


def field_pool(root, *, tasks=TASKS, source=RECORD, calibrated=True, seed=1):
    """Write a pool of such tasks to the folder `root`, on the graphs of the pool `source`; return it opened."""
    tasks, pool, random = together(tasks), Pool.open(source), np.random.default_rng(seed)
    parts = [_part(pool, task, random) for task in tasks]
    golden = pictures(pool.image.shape, SAMPLES, 1)
    proof, seen = (logits_of(pool, parts, images) for images in (golden, seen_images(pool)))
    fields = fields_of(tasks)
    labels = {
        field: _labels(np.concatenate(seen, 1)[:, columns], random, gaps=set(fields) != {"class"})
        for field, columns in fields.items()
    }
    shared = {"golden.images": golden, "validation.rows": np.arange(SEEN)}
    shared |= {labels_key(field): found for field, found in labels.items()}
    for name in ("common.onnx", "task.onnx"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pool.read(name))
    save_tensors(root / SHARED, shared, {"schema": 1, "kind": "evidence"})
    entries = []
    for task, part, mine, its in zip(tasks, parts, proof, seen, strict=True):
        entry = task.to_json() | task_files(task.name)
        head = {"head.z": part.head_z, "head.u": part.head_u, "head.bias": part.head_bias}
        save_tensors(root / entry["file"], part.weights | head, owned("task", entry))
        logits = {"golden.logits": mine, "validation.logits": its}
        save_tensors(root / entry["evidence"], logits, owned("evidence", entry))
        entries.append(entry)
    manifest = json.loads(dump_json(pool.manifest))
    for key in ("calibration", "blocks", "added"):
        manifest.pop(key, None)
    if calibrated:
        names = write_pool_ranges(root, pool_ranges(*pool.graphs(), parts, seen_images(pool)), SEEN)
        manifest["calibration"] = names[""]
        entries = [entry | {"calibration": names[entry["name"]]} for entry in entries]
    manifest |= {"tasks": entries, "classes": list(class_names(tasks)), "temperatures": {}, "name": "fields"}
    manifest["recipe"] |= {"tasks": {task.name: {"field": task.field, "classes": list(task.classes)} for task in tasks}}
    if set(fields) != {"class"}:
        del manifest["classes"]
        manifest |= {
            "schema": 2,
            "fields": {
                field: {"kind": "classes", "coupling": "joint",
                        "classes": [name for task in tasks if task.field == field for name in task.classes]}
                for field in fields
            },
            "faces": {"z": {"channels": parts[0].head_z.shape[1]}},
            "templates": {
                "task": {"file": "task.onnx", "tap": "tap", "face": "z", "D": parts[0].head_u.shape[1]},
            },
        }  # fmt: skip
    manifest["files"] = describe_files(root, [path for path in root.rglob("*") if path.is_file()])
    (root / POOL).write_text(dump_json(manifest), encoding="utf-8")
    return Pool.open(root)


def _part(pool, task, random):
    """Return a task's share: another task's network, shaken, and a head of its own."""
    like = pool.part(pool.tasks[random.integers(len(pool.tasks))])
    weights = {key: (v * random.uniform(0.8, 1.2, v.shape)).astype(np.float32) for key, v in like.weights.items()}
    sizes = len(task.classes), like.head_z.shape[1], like.head_u.shape[1]
    head_z, head_u = (random.normal(0, 1.5 / np.sqrt(n), (sizes[0], n)).astype(np.float32) for n in sizes[1:])
    return Part(task.name, weights, head_z, head_u, random.normal(0, 0.3, sizes[0]).astype(np.float32))


def _labels(logits, random, *, gaps):
    """Return labels (V,) that the logits mostly get right; with `gaps` some are not known."""
    V, C = logits.shape
    right, known = random.random(V) < 0.7, random.random(V) < (0.85 if gaps else 2)
    labels = np.where(right, logits.argmax(1), random.integers(0, C, V))
    return np.where(known, labels, -1).astype(np.int64)
