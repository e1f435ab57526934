"""Runs one command line and kills its own process at the n-th change of the disk.

    python dying.py POINT verb argument…

With POINT 0 nothing is killed, and the number of points is the last line printed.
"""

import os
import signal
import sys

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def watched(point, die=killed):
    """Count the process's changes of the disk, and let it `die` at the `point`-th; return the counter.

    A change is a name that is made, moved or removed, a file that is opened to be written, and what is seen on the disk.
    """
    count, fsync = [0], os.fsync

    def tick(event, arguments):
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in CHANGES or (opened and not str(arguments[0]).startswith("/dev/")):
            count[0] += 1
            if count[0] == point:
                die()

    def seen(descriptor):
        tick("os.rename", ())
        fsync(descriptor)

    os.fsync = seen
    sys.addaudithook(tick)
    from kfdeploy import outputs

    exchange = outputs.exchange

    def exchanging(one, other):  # ctypes tells nobody what it calls
        tick("os.rename", ())
        found = exchange(one, other)
        tick("os.rename", ())
        return found

    outputs.exchange = exchanging
    return count


def main():
    point, *words = sys.argv[1:]
    from kfdeploy.cli import main as run

    count = watched(int(point))
    sys.argv = ["kfdeploy", *words]
    code = 0
    try:
        run()
    except SystemExit as error:
        code = error.code
    print(count[0])
    sys.exit(code)


if __name__ == "__main__":
    main()
