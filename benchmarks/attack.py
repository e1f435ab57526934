"""Read thousands of damaged and hostile files of every kind: no traceback, no more than 300 MB, no more than 10 s each.

    python benchmarks/attack.py --mutants 10000 --out attack.json

Mutants are functions of their kind and number (`tests/helpers/mutants.py`), made from the record of version 0.1.0. They
are read by the verbs, in child processes whose peak memory is measured mutant by mutant; a child that hangs or crashes
is an entry in the result, and the next one goes on behind it.
"""

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
SECONDS, MEGABYTES, ADDRESSES = 10.0, 300.0, 12 << 30


def child(pipe: Connection, place: str, jobs: list[tuple[str, int]]) -> None:
    """Read mutants one after another; say which before each, and how it went after it."""
    sys.stdin.close()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from victims import World

    world = World(ROOT / "tests" / "records" / "0.1.0", Path(place) / f"{os.getpid()}")
    world.run("verify base/pool")  # what every run loads
    world.run("predict base/image.png --model base/artifact")
    for kind, number in jobs:
        try:
            line = world.mutant(kind, number)
        except (RecursionError, OverflowError) as error:
            pipe.send(("skipped", kind, number, repr(error)))
            continue
        pipe.send(("begin", kind, number, line))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        before, began = _memory("VmRSS"), (time.perf_counter(), time.process_time())
        found = world.run(line)
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        pipe.send(("end", found, took, (before, _memory("VmHWM"))))
    world.close()
    pipe.send(("done",))


def _memory(name: str) -> float:
    """Return a line of this process's status, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1000


def campaign(kinds: list[str], count: int, seconds: float) -> list[dict[str, object]]:
    """Return a row for each mutant; the same number of each kind."""
    each = -(-count // len(kinds))
    left = [(kind, number) for number in range(each) for kind in kinds][:count]
    rows: list[dict[str, object]] = []
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        while left:
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs, place, left))
            process.start()
            theirs.close()
            done = follow(process, ours, rows, seconds)
            left = left[done:]
            print(f"{len(rows)} of {count}", file=sys.stderr, flush=True)
    return rows


def follow(process: multiprocessing.Process, pipe: Connection, rows: list[dict[str, object]], seconds: float) -> int:
    """Take down what a child says until it ends; return how many mutants it has read."""
    done, row = 0, None
    try:
        while True:
            if not pipe.poll(4 * seconds + 60 * (row is None)):
                if row is not None:
                    rows.append(row | {"found": "hang", "seconds": 4 * seconds})
                return done + 1
            what, *said = pipe.recv()
            if what == "begin":
                row = {"kind": said[0], "number": said[1], "line": said[2]}
            elif what == "skipped":
                done += 1
            elif what == "end" and row is not None:
                wall, used = said[1]
                rows.append(row | {"found": said[0], "seconds": round(wall, 3), "processor": round(used, 3),
                                   "before": round(said[2][0], 1), "peak": round(said[2][1], 1)})  # fmt: skip
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


def told(rows: list[dict[str, object]]) -> dict[str, object]:
    """Return the figures of a campaign, and each mutant that was read wrongly."""
    finished = [row for row in rows if "peak" in row]
    found = Counter(str(row["found"]).split()[0] for row in rows)
    bad = [
        row for row in rows
        if row["found"] not in ("fine", "refused") or float(str(row.get("peak", 0))) > MEGABYTES
        or float(str(row.get("processor", 0))) > SECONDS
    ]  # fmt: skip
    kinds = {
        kind: dict(Counter(str(row["found"]).split()[0] for row in rows if row["kind"] == kind))
        for kind in dict.fromkeys(str(row["kind"]) for row in rows)
    }
    worst = {
        key: max((float(str(row[key])) for row in finished), default=0.0) for key in ("seconds", "processor", "peak")
    }
    grown = max((float(str(row["peak"])) - float(str(row["before"])) for row in finished), default=0.0)
    return {
        "mutants": len(rows),
        "found": dict(found),
        "worst": worst | {"grown": round(grown, 1)},
        "kinds": kinds,
        "bad": bad,
    }


def main() -> None:
    """Run a campaign, print its figures, and write them where that is asked for."""
    from victims import KINDS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="what one may take; a hang is four times that")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    result = told(campaign(asked.kinds, asked.mutants, asked.seconds))
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "bad"}, indent=1, ensure_ascii=False))
    for row in result["bad"][:50]:  # type: ignore[index]
        print(row)
    sys.exit(1 if result["bad"] else 0)


if __name__ == "__main__":
    main()
