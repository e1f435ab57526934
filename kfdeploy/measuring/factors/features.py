"""The features of a pool's factors on images, by ONNX Runtime."""

from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.data.imageset import ImageSet
from kfdeploy.graph.reference import Runner
from kfdeploy.pool.pool import Pool

COMMON = "common network"


def features(pool: Pool, images: ImageSet, batch: int = 250) -> dict[str, Floats]:
    """Return every factor's pooled features (N, d) and (N, D), by name; the common network's under `COMMON`."""
    import onnx

    common, template = pool.graphs()
    parts = [pool.part(task) for task in pool.tasks]
    runs = {COMMON: Runner(common, ("z", "tap"))}
    for part in parts:
        own = onnx.ModelProto()
        own.CopyFrom(template)
        for initializer in own.graph.initializer:
            if initializer.name in part.weights:
                initializer.CopyFrom(onnx.numpy_helper.from_array(part.weights[initializer.name], initializer.name))
        runs[part.name] = Runner(own, ("u",))
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for start in range(0, len(images), batch):
        common_out = runs[COMMON](images.load(slice(start, start + batch)))
        found[COMMON].append(common_out["z"][:, :, 0, 0])
        for part in parts:
            found[part.name].append(runs[part.name](common_out["tap"])["u"][:, :, 0, 0])
    return {name: np.concatenate(rows).astype(np.float64) for name, rows in found.items()}
