"""The part of `attack.py` that reads: damaged files of every kind, and folders that somebody has altered."""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "records" / "0.1.0"
SECONDS, MEGABYTES, ADDRESSES = 10.0, 300.0, 12 << 30
Row = dict[str, Any]


class Files:
    """Mutants of single files, which the verbs read; see `tests/helpers/victims.py`."""

    def __init__(self, place: Path) -> None:
        from victims import World

        self.world = World(RECORD, place)
        self.world.run("verify base/pool")  # what every run loads
        self.world.run("predict base/image.png --model base/artifact")

    def make(self, kind: str, number: int) -> str:
        """Put a mutant in its place; return the line that reads it."""
        return str(self.world.mutant(kind, number))

    def read(self, kind: str, number: int, line: str) -> Row:
        """Read it; return how that ended."""
        return {"found": self.world.run(line)}

    def after(self, kind: str, line: str, row: Row) -> None:
        """Add what it has done to what lies around, and whether it was taken for what it is not."""
        row["outside"] = self.world.outside()[:5]
        row["accepted"] = row["found"] == "fine" and line.startswith("verify") and self.world.deceived(kind)


class Altered:
    """Folders with one change that whoever makes it covers up; see `tests/helpers/altered.py`."""

    def __init__(self, place: Path) -> None:
        from kfdeploy.deploy.assemble import assemble
        from kfdeploy.deploy.export import export
        from kfdeploy.deploy.update.diff import write_update

        self.top = place / "top"
        self.top.mkdir(parents=True)
        os.environ |= {"HOME": str(place / "home"), "KFDEPLOY_STATE": str(place / "state")}
        shutil.copytree(RECORD, place / "record")
        os.chdir(place / "record")
        self.image = place / "record" / "data" / "test" / "cat" / "000.png"
        made = assemble("pool", ["sea horse", "pets"], place / "assembly")
        export(made.path, "onnx", out=place / "artifacts")
        export(made.path, "openvino", out=place / "artifacts")
        other = assemble("pool", ["sea horse", "élan"], place / "new" / "assembly")
        write_update(made.path, other.path, place / "u.kfu")
        self.update = place / "u.kfu"
        self.originals = {"pool": place / "record" / "pool", "assembly": made.path,
                          "artifact": place / "artifacts" / "assembly-onnx-fp32",
                          "openvino": place / "artifacts" / "assembly-openvino-fp32"}  # fmt: skip

    def make(self, kind: str, number: int) -> str:
        """Return the mutant's name."""
        return f"{kind} {number}"

    def read(self, kind: str, number: int, line: str) -> Row:
        """Alter a folder, and read it."""
        from altered import look

        found = look(kind, number, self.originals, self.update, self.image, self.top)
        if found is None:
            return {"found": "none"}
        end = f"traceback {found.wrong}" if found.wrong else "fine" if found.accepted else "refused"
        return {"found": end, "line": found.told, "outside": list(found.outside)[:5], "accepted": found.wrongly}

    def after(self, kind: str, line: str, row: Row) -> None:
        """Do nothing: all is in the row."""


READERS = {"mutants": Files, "altered": Altered}


def child(pipe: Connection, reader: str, place: str, jobs: list[tuple[str, int]]) -> None:
    """Read mutants one after another; say which before each, and how it went after it."""
    sys.stdin.close()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    made: Files | Altered = READERS[reader](Path(place) / f"{os.getpid()}" / "here")
    for kind, number in jobs:
        try:
            line = made.make(kind, number)
        except (RecursionError, OverflowError) as error:
            pipe.send(("skipped", kind, number, repr(error)))
            continue
        pipe.send(("begin", kind, number, line))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        before, began = _memory("VmRSS"), (time.perf_counter(), time.process_time())
        row = made.read(kind, number, line)
        row["seconds"] = round(time.perf_counter() - began[0], 3)
        row["processor"] = round(time.process_time() - began[1], 3)
        row["before"], row["peak"] = before, _memory("VmHWM")
        made.after(kind, line, row)
        pipe.send(("end", row))
    pipe.send(("done",))


def _memory(name: str) -> float:
    """Return a line of this process's status, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1000, 1)


def campaign(reader: str, kind: str, count: int, seconds: float) -> list[Row]:
    """Return a row for each mutant of a kind."""
    left = [(kind, number) for number in range(count)]
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")  # a process of its own: what is loaded here does not count
    with tempfile.TemporaryDirectory() as place:
        while left:
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs, reader, place, left))
            process.start()
            theirs.close()
            done = follow(process, ours, rows, seconds)
            left = left[done:]
    return rows


def follow(process: Any, pipe: Connection, rows: list[Row], seconds: float) -> int:
    """Take down what a child says until it ends; return how many mutants it has read."""
    done: int = 0
    row: Row | None = None
    try:
        while True:
            if not pipe.poll(4 * seconds + 120 * (row is None)):
                if row is not None:
                    rows.append(row | {"found": "hang", "seconds": 4 * seconds})
                return done + 1
            what, *said = pipe.recv()
            if what == "begin":
                row = {"kind": said[0], "number": said[1], "line": said[2]}
            elif what == "skipped":
                done += 1
            elif what == "end" and row is not None:
                if said[0]["found"] != "none":
                    rows.append(row | said[0])
                done, row = done + 1, None
            elif what == "done":
                return done
    except EOFError:
        process.join()
        name = signal.Signals(-process.exitcode).name if (process.exitcode or 0) < 0 else f"exit {process.exitcode}"
        rows.append((row or {"kind": "", "number": -1, "line": ""}) | {"found": f"crash {name}", "seconds": 0.0})
        return done + 1
    finally:
        process.kill()
        process.join()


def told(rows: list[Row]) -> Row:
    """Return the figures of some mutants, and each that was read wrongly.

    Seconds are of the processor: another's work is not the file's.
    """
    finished = [row for row in rows if "peak" in row]
    worst = {key: max((row[key] for row in finished), default=0.0) for key in ("seconds", "processor", "peak")}
    grown = max((row["peak"] - row["before"] for row in finished), default=0.0)
    counts = Counter(row["found"].split()[0] for row in rows)
    return {
        "tried": len(rows),
        "found": dict(counts),
        "tracebacks": counts["traceback"] + counts["crash"] + counts["hang"],
        "accepted": sum(bool(row.get("accepted")) for row in rows),
        "outside": sum(bool(row.get("outside")) for row in rows),
        "worst": worst | {"grown": round(grown, 1)},
        "bad": [row for row in rows if _bad(row)],
    }


def _bad(row: Row) -> bool:
    wrong = row["found"] not in ("fine", "refused") or bool(row.get("accepted")) or bool(row.get("outside"))
    return wrong or row.get("peak", 0) > MEGABYTES or row.get("processor", 0) > SECONDS
