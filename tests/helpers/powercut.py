"""A disk that forgets: a small ext4 image, and the cutting of its power."""

import fcntl
import os
import shutil
import signal
import struct
import subprocess

_SHUTDOWN, _AS_IT_IS = 0x8004587D, 2  # FS_IOC_SHUTDOWN; nothing is written any more, not even the journal


def refused(folder):
    """Return why no image can be mounted here, or an empty string."""
    for program in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if os.geteuid() != 0:
        return "mounts are refused here: this is not root"
    try:
        with Disk(folder / "trial", 16) as disk:
            disk.cut_from_here()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        return f"mounts are refused here: {said.decode(errors='replace').strip()[:200]}"
    return ""


def _run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


class Disk:
    """An ext4 file system in a file. Its journal is written when it is told to be, and else once in five minutes."""

    def __init__(self, folder, megabytes):
        self.image, self.saved, self.place = folder / "image", folder / "saved", folder / "disk"
        self.place.mkdir(parents=True)
        with self.image.open("wb") as stream:
            stream.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", self.image)

    def __enter__(self):
        self.mount()
        return self

    def __exit__(self, *_):
        self.unmount()

    def mount(self):
        _run("mount", "-o", "loop,commit=300", self.image, self.place)

    def unmount(self):
        if os.path.ismount(self.place):
            _run("umount", self.place)

    def save(self):
        """Keep what is on it, to begin from again and again."""
        self.unmount()
        _run("cp", "--sparse=always", self.image, self.saved)
        self.mount()

    def restore(self):
        self.unmount()
        _run("cp", "--sparse=always", self.saved, self.image)
        self.mount()

    def cut_from_here(self):
        """Cut its power: what is not on the disk is lost, and nothing gets there any more."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _AS_IT_IS))
        finally:
            os.close(descriptor)

    def cut_and_die(self):
        """What a process does at its last moment."""
        self.cut_from_here()
        os.kill(os.getpid(), signal.SIGKILL)

    def start_again(self):
        """Mount it as after a power cut: its journal is replayed."""
        self.unmount()
        self.mount()
