"""The campaign itself, `benchmarks/attack.py`, in its smallest size: what it finds here is nothing, and makes a table."""

import importlib.util
import json
import subprocess
import sys

from places import ROOT

BENCHMARKS = ROOT / "benchmarks"


def test_a_small_campaign_finds_nothing_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "attack.json"
    sizes = ("--mutants", "200", "--rounds", "1", "--every", "9", "--kinds", "golden", "artifact", "keygen", "assemble")
    command = [sys.executable, str(BENCHMARKS / "attack.py"), *sizes, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    names = {part: list(jobs) for part, jobs in found["parts"].items()}
    assert names == {"mutants": ["golden"], "altered": ["artifact"], "races": ["assemble, 2 at once", "assemble, 4 at once"],
                     "kills": ["assemble", "keygen"], "cuts": ["assemble", "keygen"]}  # fmt: skip
    before = out.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, out.stat().st_mtime_ns) == (0, before)
    spec = importlib.util.spec_from_file_location("attack_tables", BENCHMARKS / "attack_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = tables.attack(found)
    assert "| folders of 1 kinds, altered and covered up, read and written to | 4 | 0 | 0 | 0 | – | " in text
    assert "Nothing is out of bounds." in text
