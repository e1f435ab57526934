"""What a folder says to those who use it: its classes, and what it makes of pictures. Two that say the same are one."""

import os
from contextlib import suppress
from pathlib import Path

from kfdeploy.deploy.predict import predict
from kfdeploy.errors import KfdeployError
from kfdeploy.pool.pool import Pool

NEAR = 2e-3  # of a probability: int8 and other processors are not looked at here
SEEN = {"pool": "pool", "assembly": "assembly", "student": "student", "artifact": "artifact"}


def meaning(folder, images):
    """Return what a pool, a model or an artifact means, or None where it does not say."""
    folder = Path(folder)
    try:
        if (folder / "pool.json").is_file():
            return {task.name: tuple(task.classes) for task in Pool.open(folder).tasks}
        return [(dict(each.classes), each.known) for each in predict(folder, images, top=100)]
    except KfdeployError:
        return None


def differs(found, true):
    """Return whether somebody who believes `found` is deceived; a pool may have fewer tasks, and others besides."""
    if found is None:
        return False
    if isinstance(found, dict):
        return any(name in true and true[name] != classes for name, classes in found.items())
    return any(_apart(one, other) for one, other in zip(found, true, strict=True))


def _apart(one, other):
    (shares, known), (true, sure) = one, other
    if shares.keys() != true.keys() or (known is None) != (sure is None):
        return True
    # A probability that is none is no nearer than any other.
    return not all(abs(shares[name] - true[name]) <= NEAR for name in true)


def entries(folder, but=()):
    """Return every entry of a folder and below: which it is, its size and its age; cheap, and nothing is read."""
    found, left = {}, [Path(folder)]
    while left:
        with suppress(FileNotFoundError), os.scandir(left.pop()) as there:  # another process may clear up its own
            for entry in there:
                if entry.path in but:
                    continue
                about = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                    found[entry.path] = about.st_ino
                else:
                    found[entry.path] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found
