"""The attack campaign: what must be refused, what must be whole, and who must be told; nothing of it is random.

    python benchmarks/attack.py --out benchmarks/results/attack.json
    python benchmarks/attack.py --parts mutants --kinds golden

Its parts, each of which is written down as soon as it is done, and left out when it is on record with the same size:

* `mutants`: damaged and hostile files of every kind, read by the verbs. No traceback, none taken for what it is not,
  nothing changed around it, at most 300 MB and 10 s each.
* `altered`: folders with one change that whoever makes it covers up with new hashes.
* `races`: two and four processes that do the same, or what gets into each other's way, at once.
* `kills`: a process killed at every change of the disk; old, new or absent.
* `cuts`: the same with the power cut, on an ext4 image that loses whatever it has not been told to keep; and after the
  end, where what was told of must be there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "tests" / "helpers")]
PARTS = ("mutants", "altered", "races", "kills", "cuts")


def jobs(asked: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Return the (part, kind, size) of everything that is to be done."""
    from altered import MANIFESTS
    from attack_writers import RACES, SCENARIOS
    from victims import KINDS

    sizes = {"mutants": [(kind, -(-asked.mutants // len(KINDS))) for kind in KINDS],
             "altered": [(kind, -(-asked.mutants // 10 // len(MANIFESTS))) for kind in MANIFESTS],
             "races": [(f"{name}, {count} at once", asked.rounds) for name in RACES for count in (2, 4)],
             "kills": [(name, asked.every) for name in SCENARIOS],
             "cuts": [(name, asked.every) for name in SCENARIOS]}  # fmt: skip
    every = [(part, kind, size) for part in asked.parts for kind, size in sizes[part]]
    return [job for job in every if not asked.kinds or {job[1], job[1].rpartition(", ")[0]} & {*asked.kinds}]


def do(part: str, kind: str, size: int) -> dict[str, Any]:
    """Return the figures of one job."""
    if part in ("mutants", "altered"):
        from attack_mutants import SECONDS, campaign, told

        return told(campaign(part, kind, size, SECONDS))
    import attack_writers

    if part == "races":
        name, _, count = kind.rpartition(", ")
        return attack_writers.race(name, int(count.split()[0]), size)
    return attack_writers.sweep(kind, size, cut=part == "cuts")


def read(path: Path | None) -> dict[str, Any]:
    """Return what is on record, or an empty record."""
    from kfdeploy.measuring.rounds import describe_machine

    if path is not None and path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {"schema": 1, "kind": "attack", "machine": describe_machine(), "parts": {}}


def main() -> None:
    """Do what is not on record yet, write each piece down, and say what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000, help="of all kinds together; a tenth of it, altered")
    parser.add_argument("--rounds", type=int, default=50, help="of each race, with two and with four processes")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th change of the disk")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--kinds", nargs="*", default=[], help="of files, folders, races and verbs; default: all")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    record, bad = read(asked.out), 0
    for part, kind, size in jobs(asked):
        done = record["parts"].setdefault(part, {})
        if done.get(kind, {}).get("size") != size:
            done[kind] = {"size": size, **do(part, kind, size)}
            if asked.out is not None:
                asked.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        found = done[kind]
        bad += len(found["bad"])
        shown = {key: value for key, value in found.items() if key not in ("bad", "size", "found")}
        print(f"{part}, {kind}: {shown}", file=sys.stderr, flush=True)
        for row in found["bad"][:20]:
            print(f"  {row}", file=sys.stderr, flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
