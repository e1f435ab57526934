"""A pool's place in memory: files by name, and a log of what was read."""

from kfdeploy.errors import PoolError


class Memory:
    """Fulfils `kfdeploy.pool.remote.place.Place`, and keeps to nothing on the disk."""

    folder = None

    def __init__(self, files):
        self.files, self.log = dict(files), []

    @classmethod
    def of(cls, root):
        """Return a copy of a pool's folder."""
        return cls({p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()})

    def __str__(self):
        return "memory"

    def manifest(self):
        return self.files["pool.json"]

    def read(self, name, files):
        self.log.append(name)
        if name not in files or name not in self.files:
            raise PoolError(f"'memory/{name}' is missing")
        return self.files[name]

    def fetch(self, names, files):
        pass

    def check(self, names, files):
        for name in names or files:
            self.read(name, files)

    def has(self, name):
        return name in self.files

    def summary(self):
        return ""
