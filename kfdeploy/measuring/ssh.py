"""The system's ssh: what it is told, what it says, and what can be done on a device through it.

Its own configuration, keys and known hosts are used, and it may never ask for anything.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from kfdeploy.errors import MissingDependencyError, RemoteError, UnsupportedError

ADDRESS = "ssh://[user@]host[:port][/folder]"
CONNECT_SECONDS = 10
MARK = "-- kfdeploy --"  # what comes before it on stdout was said by the device's own login scripts
_URL = re.compile(r"ssh://(?:(?!-)([^@/:]+)@)?(?!-)(\[[^\]/@]+\]|[^@/:\[\]]+)(?::(\d+))?(/.*)?")
# What ssh says (in English everywhere), what it means, and what to type.
_LOST = r"closed by|Read from remote|client_loop|not responding|Broken pipe|Connection reset|packet_write|mux_client"
_SAID = (
    (r"IDENTIFICATION HAS CHANGED", "{host} has another host key than the one on record: it was set up anew, or this "
     "is another machine", "if it was set up anew: ssh-keygen -R {key}, then {typed}"),
    (r"Host key verification failed|host key is known", "the host key of {host} is not known here",
     "log in once by hand and compare it: {typed}"),
    (r"Permission denied \(|Too many authentication", "{host} lets nobody in with the keys that ssh has here",
     "ssh-copy-id {plain}, or add the key to ssh-agent; there must be no password to ask for"),
    (r"resolve hostname", "there is no host named '{name}'", "check the name, or use its IP address"),
    (r"onnection refused", "{host} refuses the connection", "is an ssh server running there, and is the port right?"),
    (r"timed out|No route to host|unreachable|Host is down", "{host} does not answer",
     "is it switched on and in this network?  {typed}"),
    (_LOST, "the connection to {host} was lost while {doing}", "run it again when the network is steady: {typed}"),
)  # fmt: skip
# Runs a program of a kit, and ends it and removes the folder when the connection, and so its own input, ends.
_LAUNCH = """
import os, shutil, signal, subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-u", *sys.argv[2:]], stdin=subprocess.DEVNULL, start_new_session=True)
gone = threading.Event()
def watch():
    while os.read(0, 4096):
        pass
    gone.set()
    os.killpg(child.pid, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
code = child.wait()
if gone.is_set():
    shutil.rmtree(sys.argv[1], ignore_errors=True)
os._exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class Address:
    """Where a device is. `folder` is empty where none was named."""

    user: str
    host: str
    port: str
    folder: str

    @property
    def name(self) -> str:
        """The host as ssh knows it."""
        return self.host.strip("[]")

    @property
    def label(self) -> str:
        """The URL without user and folder: what is said of the device here, and in a result where that is asked for."""
        return f"ssh://{self.host}" + (f":{self.port}" if self.port else "")

    @property
    def alias(self) -> str:
        """What a result says of the device where its host is not to be named: the same for the same host and port."""
        return f"device-{hashlib.sha256(self.label.encode()).hexdigest()[:6]}"

    @property
    def words(self) -> list[str]:
        """What ssh is told."""
        port, user = ["-p", self.port] if self.port else [], ["-l", self.user] if self.user else []
        return [*port, *user, "--", self.name]

    @property
    def plain(self) -> str:
        """What a person types after `ssh`."""
        port = f"-p {self.port} " if self.port else ""
        return port + shlex.quote((f"{self.user}@" if self.user else "") + self.name)

    @property
    def typed(self) -> str:
        """The line that logs in by hand."""
        return f"ssh {self.plain}"


def parse_address(url: str) -> Address:
    """Read `ssh://[user@]host[:port][/folder]`.

    Raises:
        UnsupportedError: it is something else, or has a password in it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "ssh":
        seen = f"{scheme}://" if separator else f"'{url.rpartition('@')[2]}'"
        raise UnsupportedError(f"a device cannot be reached at {seen}", allowed=(ADDRESS,))
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise UnsupportedError("there is a password in the device's address", hint=f"use a key: {ADDRESS}")
    match = _URL.fullmatch(url)
    if match is None:
        raise UnsupportedError(f"'{url}' is no address of a device", allowed=(ADDRESS,))
    user, host, port, folder = (part or "" for part in match.groups())
    folder = unquote(folder)
    if folder == "/~" or folder.startswith("/~/"):
        folder = folder[3:] or "."  # every command begins in the home folder
    return Address(user, host, port, "" if folder == "/" else folder)


class Remote:
    """What can be done on a device: run a script of sh, copy files, launch a program of a kit."""

    def __init__(self, address: Address, options: tuple[str, ...] = ()) -> None:
        self.address = address
        program = shutil.which("ssh")
        if program is None:
            raise MissingDependencyError("there is no ssh program here", hint="install OpenSSH's client")
        # What is said first holds. A shared connection is used where there is one, and none is left behind.
        ours = ("BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ServerAliveInterval=15", "ServerAliveCountMax=4",
                "ControlMaster=no", "ClearAllForwardings=yes", "RemoteCommand=none", "LogLevel=ERROR")  # fmt: skip
        self.command = [program, "-T", *(word for each in ours for word in ("-o", each)), *options, *address.words]

    def run(
        self,
        script: str,
        words: Sequence[str],
        doing: str,
        *,
        timeout: float,
        accept: Sequence[int] = (),
        feed: Callable[[IO[bytes]], None] | None = None,
        line: Callable[[str], None] = lambda _: None,
    ) -> tuple[int, list[str]]:
        """Run a script of sh with `words` as its arguments; return its exit code and the lines after the last mark.

        `feed` writes its input, which else lasts as long as the connection. Lines between the first and the second
        mark go to `line` as they come. `accept` has the exit codes other than 0 that are no errors.

        Raises:
            RemoteError: ssh failed, the script failed, or it took longer than `timeout` seconds.
        """
        command = [*self.command, shlex.join(["sh", "-c", script, "sh", *words])]
        late, errors = threading.Event(), list[str]()
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            stdin, stdout, stderr = _pipes(process)

            def stop() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(timeout, stop)
            listener = threading.Thread(target=_listen, args=(stderr, errors), daemon=True)
            timer.start()
            listener.start()
            try:
                if feed is not None:
                    with suppress(BrokenPipeError):  # ssh is gone: what it said of it comes below
                        feed(stdin)
                        stdin.close()
                said = _behind_marks(stdout, line)
                code = process.wait()
                listener.join(5)
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
                with suppress(BrokenPipeError):
                    stdin.close()
        if late.is_set() and code:
            raise RemoteError(
                f"{doing} on {self.address.label} took longer than {timeout:g} s and was ended",
                hint="give it longer with --timeout, or take a quick look with --quick",
            )
        if code and code not in accept:
            raise self._failure(code, errors, doing)
        return code, said

    def copy(self, files: Sequence[tuple[Path, str]], folder: str, doing: str, timeout: float) -> None:
        """Copy files, each with its name there, into a new folder.

        Raises:
            RemoteError: as `run`.
        """

        def feed(stream: IO[bytes]) -> None:
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:
                for path, name in files:
                    about = archive.gettarinfo(path, name)
                    about.uid = about.gid = 0
                    about.uname = about.gname = ""
                    about.mode = 0o644
                    with path.open("rb") as content:
                        archive.addfile(about, content)

        script = 'export LC_ALL=C; mkdir -p -- "$1" && cd -- "$1" && exec tar -xof -'
        self.run(script, [folder], doing, timeout=timeout, feed=feed)

    def launch(self, words: Sequence[str], doing: str, timeout: float, report: Callable[[str], None]) -> str:
        """Run a program of a kit, its lines going to `report`; return what it left in `result.json`.

        `words`: the device's Python, the kit's folder, the folder to remove should the connection end, the program
        and its arguments.

        Raises:
            RemoteError: as `run`.
        """
        python, folder, doomed, *program = words
        script = (
            f'cd -- "$2" && printf "%s\\n" "{MARK}" && export PYTHONUTF8=1 && rm -f ../result.json && py="$1" '
            f'&& shift 2 && "$py" -c "$@" && printf "%s\\n" "{MARK}" '
            "&& if [ -f ../result.json ]; then cat ../result.json; fi"
        )
        _, lines = self.run(script, [python, folder, _LAUNCH, doomed, *program], doing, timeout=timeout, line=report)
        return "\n".join(lines)

    def _failure(self, code: int, errors: Sequence[str], doing: str) -> RemoteError:
        """Return what happened, from an exit code and what was said on stderr."""
        where, text = self.address, "\n".join(errors)
        last = next((line for line in reversed(errors) if line.strip()), f"it ended with {code}")
        if code == 255:  # ssh itself
            key = f"[{where.name}]:{where.port}" if where.port else where.name
            known = {"host": where.label, "name": where.name, "plain": where.plain, "typed": where.typed}
            for pattern, what, hint in _SAID:
                if re.search(pattern, text):
                    known |= {"key": shlex.quote(key), "doing": doing}
                    return RemoteError(what.format(**known), hint=hint.format(**known))
            return RemoteError(
                f"ssh failed while {doing} on {where.label}: {last}", hint=f"try it by hand: {where.typed}"
            )
        if re.search("No space left on device|Disk quota exceeded", text):
            return RemoteError(
                f"the disk of {where.label} is full: {doing} failed",
                hint=f"free some space there, or name another folder: {ADDRESS}",
            )
        said = [line for line in errors if line.startswith("error: ")]
        hints = [line.removeprefix("hint:").strip() for line in errors if line.startswith("hint:")]
        what = said[-1].removeprefix("error: ") if said else last
        if code == 137:
            what = "it was killed, perhaps because the memory was full"
        return RemoteError(
            f"{doing} on {where.label} failed: {what}",
            hint=hints[-1] if said and hints else f"look there: {where.typed}",
        )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def _behind_marks(stdout: IO[bytes], line: Callable[[str], None]) -> list[str]:
    """Read to the end, and return the lines after the last mark; those after the first alone go to `line`."""
    parts: list[list[str]] = [[]]
    for raw in stdout:
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        if text == MARK:
            parts.append([])
            continue
        parts[-1].append(text)
        if len(parts) == 2:
            line(_printable(text))
    return parts[-1]


def _listen(stream: IO[bytes], lines: list[str]) -> None:
    lines += [_printable(line.decode("utf-8", "replace").rstrip()) for line in stream]


def _printable(text: str) -> str:
    """Return a device's text without what would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
