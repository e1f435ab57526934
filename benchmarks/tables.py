"""Fill the README's tables from recorded results, so that no number in it is typed by hand.

    python benchmarks/tables.py            # writes them
    python benchmarks/tables.py --check    # exits 1 where they are not what the results say

A table stands between `<!-- table: <file in benchmarks/results> -->` and `<!-- end -->`.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from kfdeploy import report

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.S)


def bank(result):
    """Return the table of `benchmarks/bank.py`."""
    lines = [
        "| K | runtime | threads | bank ms | branches ms | ratio (95 % interval) | outputs differ by |",
        "|--:|---|--:|--:|--:|---|--:|",
    ]
    for row in result["rows"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['K']} | {row['target']} | {row['threads']} | {row['bank_ms']:.3f} | {row['branches_ms']:.3f} "
            f"| {row['ratio']:.3f} [{low:.3f}, {high:.3f}] | {row['difference']:.1e} |"
        )
    machine, nets = result["machine"], result["nets"]
    size = "×".join(map(str, result["image"]))
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores; CKN {nets['ckn']}, TSNs {nets['tsn']} on {nets['tap']['name']}, "
        f"images {size}, batch 1, fp32, {result['protocol']['rounds']} alternating rounds of fresh processes.",
    ]
    return "\n".join(lines) + "\n"


def filled(text):
    """Return the README with every table made anew."""

    def one(found):
        result = json.loads((ROOT / "benchmarks" / "results" / found[2]).read_text(encoding="utf-8"))
        made = bank(result) if result["kind"] == "bank" else report.markdown(result)
        return f"{found[1]}{made}{found[3]}"

    return BLOCK.sub(one, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if parser.parse_args().check:
        if before != after:
            sys.exit("README.md is not what benchmarks/results say: run python benchmarks/tables.py")
    else:
        readme.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
