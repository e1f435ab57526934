"""A device that holds a key, three assemblies, and the updates between them."""

import shutil

import pytest
from killed import tree

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.errors import UpdateError


class World:
    """A device that holds a key, three assemblies, and the updates between them."""

    def __init__(self, toy, root):
        self.root, self.state, self.device = root, root / "state", root / "device" / "assembly"
        for name, tasks in (("device", ["pets"]), ("b", ["pets", "élan"]), ("c", ["élan"])):
            assemble(toy.pool, tasks, root / name / "assembly")
        shutil.copytree(root / "device", root / "a")
        self.key, public = keygen(root / "update")
        (self.state / "keys").mkdir(parents=True)
        shutil.copy(public, self.state / "keys")
        self.before = tree(self.device)

    def update(self, old, new, **options):
        path = self.root / f"{old}{new}.kfu"
        write_update(self.root / old / "assembly", self.root / new / "assembly", path, force=True)
        if options:
            sign(path, **{"key": self.key, **options})
        return path

    def apply(self, update):
        return apply(update, self.device, state=self.state)

    def refuse(self, update, message, error=UpdateError):
        before = tree(self.device)
        with pytest.raises(error, match=message) as caught:
            self.apply(update)
        assert caught.value.hint
        assert tree(self.device) == before
        assert not list(self.device.glob(".update*"))

    def has(self, name):
        return tree(self.device) == tree(self.root / name / "assembly")
