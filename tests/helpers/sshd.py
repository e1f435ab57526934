"""A device for tests: an sshd of its own on loopback, and how ssh is told of it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kfdeploy.errors import RemoteError
from kfdeploy.measuring.remote import benchmark_on


@dataclass
class Server:
    """A device: an sshd of its own, a folder for what comes, and how ssh is told of both."""

    root: Path
    port: int
    process: subprocess.Popen

    @property
    def folder(self):
        return self.root / "device"

    @property
    def url(self):
        return f"ssh://127.0.0.1:{self.port}{self.folder}"

    @property
    def options(self):
        return ["-F", str(self.root / "ssh_config")]

    def run(self, *artifacts, url=None, **more):
        given = {"scenarios": ["single-stream"], "quick": True, "python": sys.executable, "ssh_options": self.options}
        return benchmark_on(url or self.url, artifacts, **given | more)

    def fails(self, *artifacts, **more):
        with pytest.raises(RemoteError) as caught:
            self.run(*artifacts, **more)
        assert caught.value.hint
        return caught.value

    def drop(self):
        """Kill every connection, and no process that this server did not start."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                name, _, rest = path.read_text(encoding="utf-8").partition("(")[2].rpartition(") ")
                parents[int(path.parent.name)] = (int(rest.split()[1]), name)
        mine = {self.process.pid}
        while more := {pid for pid, (parent, name) in parents.items() if parent in mine and "sshd" in name} - mine:
            mine |= more
        for pid in mine - {self.process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
