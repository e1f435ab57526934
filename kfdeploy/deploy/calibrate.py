"""Calibration: every activation's range, kept in the pool by module, so that int8 needs neither data nor neighbours.

Each module is observed with its own inputs (the CKN with images, a TSN with the CKN's tap), which no other task
changes. A range is the one whose clipping and rounding errors at 8 bits have the least sum of squares, over a histogram
of the tensor on validation images: the largest value alone would spend most levels on a few outliers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfdeploy.arrays import Images
from kfdeploy.data.splits import IMAGES, validation_images
from kfdeploy.deploy.model import Model
from kfdeploy.errors import PoolError
from kfdeploy.files import dump_json, write_file
from kfdeploy.graph.ranges import model_ranges, pool_ranges
from kfdeploy.manifest import ASSEMBLY, POOL, describe_files
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.ranges import FOLDER, write_pool_ranges, write_ranges
from kfdeploy.pool.remote.locate import local_folder


def calibrate(
    path: str | Path,
    *,
    images: int = IMAGES,
    data: str | Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Observe a pool's, a student's or a teacher's activations and keep their ranges in it; return on how many images.

    They are validation images, from the data it was made with or from `data`, a folder with `train/<class>/`.

    Raises:
        PoolError: there is none, or it is not whole.
        UnsupportedError: it is on a server.
        DataError: its validation images are not there.
    """
    root = local_folder(path, "calibrating")
    if (root / POOL).is_file():
        pool = Pool.open(root)
        _, rows = pool.validation()
        seen = validation_images(pool.manifest["recipe"]["data"], rows, pool.image, images, data)
        common, template = pool.graphs()
        found = pool_ranges(common, template, [pool.part(task) for task in pool.tasks], seen, report)
        names = write_pool_ranges(root, found, len(seen))
        entries = [entry | {"calibration": names[entry["name"]]} for entry in pool.manifest["tasks"]]
        manifest = pool.manifest | {"tasks": entries, "calibration": names[""]}
        _commit(root / POOL, manifest, list(names.values()))
    else:
        model = Model.open(root)
        if model.kind == "assembly":
            raise PoolError(f"'{root}' is an assembly: ranges belong to its pool", hint="kfdeploy calibrate <pool>")
        if any((above / POOL).is_file() for above in root.absolute().parents):
            raise PoolError(
                f"'{root}' is a part of a pool, which answers for its files", hint="copy it, and name the copy"
            )
        model.check()
        seen = validation_images(model.manifest["data"], model.validation()[1], model.image, images, data)
        calibrate_model(root, seen)
    return len(seen)


def calibrate_model(root: Path, images: Images) -> None:
    """Keep the ranges of a student or a teacher in its folder."""
    model = Model.open(root)
    name = write_ranges(root, "model", model_ranges(model.graph, images), len(images))
    _commit(root / ASSEMBLY, model.manifest | {"calibration": name}, [name])


def _commit(place: Path, manifest: dict[str, Any], written: list[str]) -> None:
    """Name the new files of ranges in the manifest, and remove the old ones after that."""
    root = place.parent
    files = {name: about for name, about in manifest["files"].items() if not name.startswith(f"{FOLDER}/")}
    manifest["files"] = files | describe_files(root, [root / name for name in written])
    write_file(place, dump_json(manifest))  # what it named before is still there until this is done
    for old in (root / FOLDER).iterdir():
        if f"{FOLDER}/{old.name}" not in written:
            old.unlink()
