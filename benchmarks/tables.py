"""Fill the README's tables from recorded results, so that no number in it is typed by hand.

    python benchmarks/tables.py            # writes them
    python benchmarks/tables.py --check    # exits 1 where they are not what the results say

A table stands between `<!-- table: <file in benchmarks/results> -->` and `<!-- end -->`; `<file>#<part>` is one part.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from attack_tables import attack
from form_tables import disentangled, forms
from front_tables import with_times
from portability_tables import portability
from speed_tables import nets, pareto, speed, spread

from kfdeploy.report.sentences import circumstances, sentences
from kfdeploy.report.tables import overview, plain

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


def study(result):
    """Return the table of `benchmarks/study.py`: mean ± standard deviation over the seeds of each row."""
    names = list(dict.fromkeys(row["name"] for row in result["rows"]))
    grouped = {name: [row for row in result["rows"] if row["name"] == name] for name in names}
    split = "test" if all("test" in row for row in result["rows"]) else "validation"
    columns = list(result["rows"][0][split])
    lines = [
        f"| {split}, % | " + " | ".join(columns) + " | seeds | epochs | minutes | nets | parameters |",
        "|---|" + "--:|" * (len(columns) + 3) + "---|--:|",
    ]
    for name, rows in grouped.items():
        cells = [spread([row[split][column] for row in rows]) for column in columns]
        minutes = statistics.mean(row["seconds"] for row in rows) / 60
        tail = [
            str(len(rows)),
            str(rows[0]["epochs"]),
            f"{minutes:.0f}",
            nets(rows[0]["nets"]),
            f"{rows[0]['parameters']:,}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells + tail) + " |")
    lines += factors(grouped)
    machine, first = result["machine"], result["rows"][0]
    precision = {"32-true": "fp32", "bf16-mixed": "bf16"}[first["precision"]]
    lines += [
        "",
        f"{machine['cpu']}, {first['threads']} threads, {precision}, {first['images']:,} training images; the last "
        "epoch's accuracy, subsets among their own classes alone. Minutes are of the training loop.",
    ]
    return "\n".join(lines) + "\n"


def factors(grouped):
    """Return the table of the rows that were inspected: are the factors factors?"""
    lines = []
    for name, rows in grouped.items():
        found = [row["inspection"] for row in rows if "inspection" in row]
        if not found:
            continue
        cells = []
        for each in found:
            K = len(each["tasks"])
            probe, cka = each["probe"][-K:], [row[-K:] for row in each["cka"][-K:]]  # the CKN's row is the first
            pairs = [(i, j) for i in range(K) for j in range(K) if i != j]
            cells.append(
                [
                    statistics.mean(probe[i][i] for i in range(K)),
                    statistics.mean(probe[i][j] for i, j in pairs),
                    statistics.mean(each["probe"][0]) if len(each["factors"]) > K else None,
                    statistics.mean(cka[i][j] for i, j in pairs),
                    each.get("calibration", {}).get("error"),
                ]
            )
        means = [None if None in values else statistics.mean(values) for values in zip(*cells, strict=True)]
        text = " | ".join("–" if value is None else f"{value:.3f}" for value in means)
        lines.append(f"| {name} | {text} |")
    if not lines:
        return []
    return [
        "",
        "| features of | a task in its own network | in another task's | in the common one | CKA of two tasks' | ECE |",
        "|---|--:|--:|--:|--:|--:|",
        *lines,
        "",
        "Balanced accuracy on test of linear probes fitted on validation features; linear CKA on test; the expected "
        "calibration error of 100 random subsets on validation.",
    ]


def precisions(result):
    """Return the table of `benchmarks/precisions.py`."""
    lines = [
        "| tasks | by | target | precision | p50 ms | of fp32 (95 % interval) | accuracy | drop, points | kB "
        "| executed |",
        "|---|---|---|---|--:|---|--:|--:|--:|---|",
    ]
    for row in result["rows"]:
        low, high = row["interval"]
        ran = ", ".join(f"{count} {name}" for name, count in row["convolutions"].items())
        lines.append(
            f"| {row['subset']} | {row['by']} | {row['target']} | {row['precision']} | {row['p50_ms']:.3f} "
            f"| {row['p50_ratio']:.3f} [{low:.3f}, {high:.3f}] | {100 * row['accuracy']:.2f} % "
            f"| {100 * row['drop']:.2f} | {row['bytes'] / 1000:,.0f} | {ran} |"
        )
    machine, nets_ = result["machine"], nets(result["nets"])
    versions = ", ".join(f"{n} {machine['versions'][n]}" for n in ("onnxruntime", "openvino", "MNN", "nncf"))
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, one thread, single-stream, {result['protocol']['rounds']} "
        f"alternating rounds of fresh processes; {versions}; {nets_}; test images; what is executed is read back from "
        "the runtime.",
    ]
    return "\n".join(lines) + "\n"


def clock(result):
    """Return the table of `benchmarks/clock_check.py`."""
    lines = ["| model | batch | against | ours, p50 ms | theirs | ratio (95 % interval) |", "|---|--:|---|--:|--:|---|"]
    for row in result["rows"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['model']} | {row['batch']} | {row['against']} ({row['target']}) | {row['ours_p50_ms']:.3f} "
            f"| {row['theirs_p50_ms']:.3f} | {row['ratio']:.3f} [{low:.3f}, {high:.3f}] |"
        )
    machine = result["machine"]
    lines += ["", f"{machine['cpu']}, one thread, {result['rounds']} alternating rounds of fresh processes."]
    return "\n".join(lines) + "\n"


def openset(result):
    """Return the table of `benchmarks/openset.py`, means and standard deviations over the seeds."""
    lines = [
        "| subset | assembly's `known` | student, softmax | student, same score | let in | false accepts |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        areas = [f"{statistics.mean(row[key]):.3f}" for key in ("assembly", "student_softmax", "student_score")]
        shares = [spread([100 * value for value in row[key]]) + " %" for key in ("let_in", "false_accept")]
        lines.append(f"| {row['subset']} | " + " | ".join(areas + shares) + " |")
    lines += [
        "",
        f"AUROC on the 10,000 test images, images of the classes that were left out as strangers; means over "
        f"{result['seeds']} seeds. Thresholds were chosen on validation for 5 % of false accepts.",
    ]
    return "\n".join(lines) + "\n"


def scale(result):
    """Return the tables of `benchmarks/scale.py`."""
    lines = ["| tasks in the pool | its pool.json | seconds (slowest) | peak of memory |", "|--:|--:|--:|--:|"]
    lines += [
        f"| {row['pool']:,} | {row['manifest_bytes'] / 1e6:.2f} MB | {row['seconds']:.2f} ({row['slowest_s']:.2f}) "
        f"| {row['peak_mb']:.0f} MB |"
        for row in result["assemble"]
    ]
    lines += [
        "",
        "| 100 tasks as | seconds | peak of memory | file | parameters | latency |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    found, subsets = result["hundred"], result["subsets"]
    lines += [
        f"| {form} | {row['seconds']:.2f} | {row['peak_mb']:.0f} MB | {row['bytes'] / 1e6:.2f} MB "
        f"| {row['parameters']:,} | {found['latency'][form + '_ms']:.3f} ms |"
        for form, row in found["forms"].items()
    ]
    low, high = found["latency"]["interval"]
    machine = result["machine"]
    lines += [
        "",
        f"Above, ten tasks assembled: `kfdeploy assemble` as a process, median of {result['rounds']} rounds. "
        f"The bank's latency over the branches': {found['latency']['ratio']:.3f} [{low:.3f}, {high:.3f}] "
        f"(ONNX Runtime, one thread, batch 1). `kfdeploy plan --all` tells the {subsets['subsets']:,} subsets of "
        f"{subsets['tasks']} tasks on {subsets['images']:,} images in {subsets['seconds']:.2f} s, as a process. "
        f"{machine['cpu']}, {machine['cores']} cores; {nets(result['nets'])}; files in the cache.",
    ]
    return "\n".join(lines) + "\n"


def grow(result):
    """Return the table of `benchmarks/grow.py`."""
    test = result["test"]
    lines = ["| test, % | " + " | ".join(test["joint"]) + " |", "|---|" + "--:|" * len(test["joint"])]
    for name, title in (("joint", "ten trained together"), ("grown", "eight, and two added later")):
        lines.append(f"| {title} | " + " | ".join(f"{value:.2f}" for value in test[name].values()) + " |")
    each = "; ".join(
        f"{row['task']}: {row['epochs']} epochs of {row['images']:,} images, {row['bytes']:,} bytes"
        for row in result["added"]
    )
    same = "every file of the others is unchanged" if result["files_unchanged"] else "FILES CHANGED"
    lines += ["", f"Added with all else frozen, the teacher at hand: {each}; {same}. One seed."]
    return "\n".join(lines) + "\n"


def ship(result):
    """Return the tables of `benchmarks/ship.py`."""
    lines = [
        f"| a signed update that adds '{result['task']}', from a pool in | bytes | of the task's stored weights "
        "| of the full student's graph |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['pool']} | {row['bytes']:,} | {row['of_weights']:.2f} × {row['weights']:,} "
        f"| {100 * row['of_student']:.1f} % of {result['student_bytes']:,} |"
        for row in result["updates"]
    ]
    lines += ["", "| as a process | bytes that travel | seconds (slowest) | peak of memory |", "|---|--:|--:|--:|"]
    titles = {"folder": "assemble, a pool in a folder", "cold": "assemble, a pool on S3, first time",
              "warm": "assemble, a pool on S3, again"}  # fmt: skip
    rows = [(titles[row["pool"]], f"{row['bytes']:,}", row) for row in result["remote"]]
    rows += [(f"{name}, on the device", "–", row) for name, row in result["device"].items()]
    lines += [
        f"| {title} | {size} | {row['seconds']:.2f} ({row['slowest_s']:.2f}) | {row['peak_mb']:.0f} MB |"
        for title, size, row in rows
    ]
    before, after = (100 * result["accuracy"][kind] for kind in ("float32", "float16"))
    machine = result["machine"]
    lines += [
        "",
        f"`kfdeploy pool convert --half`: {before:.2f} % of all tasks before, {after:.2f} % after, on "
        f"{result['accuracy']['images']:,} validation images. Medians of {result['rounds']} processes; S3 is moto's "
        f"server on loopback. {machine['cpu']}, {machine['cores']} cores.",
    ]
    return "\n".join(lines) + "\n"


def benchmark(result):
    said = "".join(f"- {plain(sentence)}\n" for sentence in sentences(result))
    return f"{overview(result).markdown()}\n{plain(circumstances(result))}\n\n{said}"


def session_overhead(result):
    lines = ["| model | target | through its target, p50 ms | bare | ratio, 95 % interval |", "|---|---|--:|--:|--:|"]
    for row in result["rows"]:
        low, high = row["interval"]
        both = row["p50_ms"]
        lines.append(
            f"| {row['model']} | {row['target']} | {both['session']:.3f} | {both['bare']:.3f} | {row['ratio']:.3f} "
            f"[{low:.3f}, {high:.3f}] |"
        )
    machine = result["machine"]
    lines += ["", f"{machine['cpu']}, {machine['cores']} cores, one thread; {result['rounds']} alternating rounds."]
    return "\n".join(lines) + "\n"


def front(result, part=""):
    """Return the tables of `benchmarks/front.py`, or one part of them."""
    return with_times(result, ROOT / "benchmarks" / "results", part)


KINDS = {"bank": bank, "study": study, "speed": speed, "pareto": pareto, "precisions": precisions, "clock": clock,
         "openset": openset, "scale": scale, "grow": grow, "ship": ship, "benchmark": benchmark,
         "session-overhead": session_overhead, "front": front, "portability": portability,
         "attack": attack, "forms": forms, "factors": disentangled}  # fmt: skip


def filled(text):
    """Return the README with every table made anew."""

    def one(found):
        name, _, part = found[2].partition("#")
        result = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
        made = KINDS[result["kind"]](result, part) if part else KINDS[result["kind"]](result)
        return f"{found[1]}{made}{found[3]}"

    return BLOCK.sub(one, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md"):
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if check and before != after:
            sys.exit(f"{page.name} is not what benchmarks/results say: run python benchmarks/tables.py")
        if not check:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
