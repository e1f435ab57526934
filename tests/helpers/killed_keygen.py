"""Kills `keygen` at every file operation; a program of its own.

    python killed_keygen.py FOLDER LINKS

With LINKS 0 the file system has no hard links. Prints how many points there were, and at how many one file was there alone.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from killed import child

from kfdeploy.deploy.update import keys, public, signers  # loaded here, once: a child process must find it
from kfdeploy.errors import KfdeployError


def refused(*_, **__):
    raise OSError(95, "Operation not supported")


def whole(private, opened):
    """Refuse a file that is there and not whole, and two that do not belong together."""
    names = []
    if private.exists():
        names.append(public.fingerprint(signers.load_private(private)[0].public_key()))
        assert private.stat().st_mode & 0o077 == 0
    if opened.exists():
        names.append(public.read_public(opened).name)
    assert len(set(names)) <= 1, "they are no pair"
    return len(names)


def main(root, links):
    if not links:
        os.link = refused
    point, halves, killed = 0, 0, True
    keys.keygen(root / "first" / "k")
    while killed:
        point += 1
        place = root / "keys"
        shutil.rmtree(place, ignore_errors=True)
        killed = child(lambda place=place: keys.keygen(place / "k"), point)
        private, opened = place / "k.key", place / "k.pub"
        there = whole(private, opened)
        if there == 1:
            assert private.exists(), "a public key without its private one"
            halves += 1
        before = private.read_bytes() if private.exists() else None
        try:
            keys.keygen(place / "k")
            assert there < 2
        except KfdeployError:
            assert there == 2
        assert whole(private, opened) == 2
        assert before in (None, private.read_bytes())
        if there < 2:
            assert sorted(path.name for path in place.iterdir()) == ["k.key", "k.pub"], "something is left"
    print(json.dumps([point, halves]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "1")
