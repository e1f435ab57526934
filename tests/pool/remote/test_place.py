"""A pool is the same wherever its files are."""

import numpy as np
import pytest
from memory import Memory

from kfdeploy.deploy.assemble import assemble
from kfdeploy.errors import PoolError, UnsupportedError
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.remote.place import Folder


def test_a_pool_in_memory_gives_what_the_folder_gives(toy, tmp_path):
    there, here = Pool.at(Memory.of(toy.pool)), Pool.at(Folder(toy.pool))
    assert there.sha256 == here.sha256
    assert np.array_equal(there.evidence().logits, here.evidence().logits)
    one, other = (assemble(pool, ["pets", "élan"], tmp_path / name) for pool, name in ((there, "a"), (here, "b")))
    assert (one.path / "parts" / "pool.json").read_bytes() == (other.path / "parts" / "pool.json").read_bytes()
    # Only the chosen tasks' files are read.
    assert not [name for name in there.place.log if "uni" in name.lower() and name.startswith("tasks/")]
    assert {name for name in there.place.log if name.startswith("tasks/")} < set(here.files)
    with pytest.raises(UnsupportedError, match="'memory' is on a server"):
        _ = there.path


def test_a_file_that_is_gone_is_named(toy):
    place = Memory.of(toy.pool)
    del place.files["task.onnx"]
    pool = Pool.at(place)
    assert not pool.has("task.onnx")
    with pytest.raises(PoolError, match=r"'memory/task\.onnx' is missing"):
        pool.graphs()
