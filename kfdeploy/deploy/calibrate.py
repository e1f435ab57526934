"""Calibration: every activation's range, kept in the pool by module, so that int8 needs neither data nor neighbours.

Each module is observed with its own inputs (the CKN with images, a TSN with the CKN's tap), which no other task
changes. A range is the one whose clipping and rounding errors at 8 bits have the least sum of squares, over a histogram
of the tensor on validation images: the largest value alone would spend most levels on a few outliers.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from kfdeploy.data.splits import IMAGES, validation_images
from kfdeploy.deploy.model import Model
from kfdeploy.errors import PoolError
from kfdeploy.graph.ranges import pool_ranges
from kfdeploy.locks import lock
from kfdeploy.manifest import POOL
from kfdeploy.names import inside
from kfdeploy.pool.manifest import calibrated, range_files, write
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.ranges import FOLDER, nothing_left, replaced, sweep_ranges, write_pool_ranges
from kfdeploy.pool.remote.locate import local_folder


def calibrate(
    path: str | Path,
    *,
    images: int = IMAGES,
    data: str | Path | None = None,
    wait: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Observe a pool's, a student's or a teacher's activations and keep their ranges in it; return on how many images.

    They are validation images, from the data it was made with or from `data`, a folder with `train/<class>/`.

    Raises:
        PoolError: there is none, or it is not whole.
        UnsupportedError: it is on a server.
        DataError: its validation images are not there.
        OutputError: another process writes there and `wait` is not set.
    """
    root = local_folder(path, "calibrating")
    with lock(root, wait=wait) if root.is_dir() else nullcontext():
        inside(root, FOLDER)  # before all the observing, not after
        if (root / POOL).is_file():
            with nothing_left(root):
                return _calibrate_pool(Pool.open(root), images, data, report)
        model = Model.open(root)
        if model.parts is not None:
            raise PoolError(f"'{root}' is an assembly: ranges belong to its pool", hint="kfdeploy calibrate <pool>")
        if any((above / POOL).is_file() for above in root.absolute().parents):
            raise PoolError(
                f"'{root}' is a part of a pool, which answers for its files", hint="copy it, and name the copy"
            )
        model.check()
        seen = validation_images(model.data, model.seen(), model.image, images, data)
        with nothing_left(root):
            model.calibrate(seen)
    return len(seen)


def _calibrate_pool(pool: Pool, images: int, data: str | Path | None, report: Callable[[str], None]) -> int:
    seen = validation_images(pool.data, pool.seen(), pool.image, images, data)
    common, template = pool.graphs()
    found = pool_ranges(common, template, [pool.part(task) for task in pool.tasks], seen, report)
    root = pool.path
    names = write_pool_ranges(root, found, len(seen))
    written, before = list(names.values()), range_files(pool.manifest)
    # What the manifest named before is still there until the new one is.
    write(root, calibrated(pool.manifest, names, replaced(root, pool.files, before, written)))
    sweep_ranges(root, before, written)
    return len(seen)
