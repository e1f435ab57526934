"""The tables of `front.py` for README and RESULTS, from its JSON and its times."""

import itertools
import json

from front_tell import WORDS, against, points


def front(result, times, part=""):
    """Return the table of every tested row, the comparisons, and what was looked at on validation; or one of them."""
    parts = {
        "rows": tested(result, times),
        "compared": compared(result, times),
        "pruned": pruned(result),
        "subset": subset(result),
        "levers": levers(result),
    }
    lines = parts[part] if part else list(itertools.chain(*parts.values()))
    return "\n".join([*lines, circumstances(result, times)]) + "\n"


def tested(result, times):
    """Return the table of every tested row."""
    lines = [
        "| | MMACs, one / two tasks | ms, one / two tasks | one task | two tasks | three tasks | all | seeds | minutes "
        "|",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        teacher(result),
    ]
    sizes = {size: {point["name"]: point for point in points(result, times, size)} for size in WORDS}
    for point in sorted(sizes["one"].values(), key=lambda point: (not point["ours"], point["macs"])):
        each = [sizes[size][point["name"]] for size in ("one", "two")]
        macs = " / ".join(dict.fromkeys(f"{p['macs']:.1f}" for p in each))
        ms = " / ".join(dict.fromkeys("–" if p["ms"] is None else f"{p['ms']:.3f}" for p in each))
        cells = [f"{sizes[size][point['name']]['accuracy']:.2f}" for size in WORDS]
        whole = sum(row["test"]["all"] for row in point["rows"]) / len(point["rows"])
        name = f"**{point['name']}**" if point["ours"] else point["name"]
        lines.append(
            f"| {name} | {macs} | {ms} | {' | '.join(cells)} | {whole:.2f} | {point['seeds']} "
            f"| {point['minutes']:.1f} |"
        )
    return [*lines, ""]


def teacher(result):
    found = result["teacher"]["test"]["mean"]
    cells = " | ".join(f"{found[size]:.2f}" for size in WORDS)
    return f"| teacher ResNet-56 | 125.5 | – | {cells} | {found['all']:.2f} | 1 | {result['teacher']['minutes']:.1f} |"


def compared(result, times):
    """Return who is how much cheaper at equal accuracy, and by how much better at equal cost."""
    unit = "ms" if times else "MMACs"
    lines = [
        f"| | tasks | rivals | the cheapest no less accurate | {unit}, its over ours | by the line between rivals "
        "| the best that is no dearer | points over it |",
        "|---|---|---|---|--:|--:|---|--:|",
    ]
    for size, students in itertools.product(("one", "two"), (False, True)):
        for row in against(result, times, size, students=students):
            interval = " [{:.2f}, {:.2f}]".format(*row["interval"]) if "interval" in row else ""
            rival = f"{row['rival']}, {row['rival_accuracy']:.2f} %" + (
                "" if row["equal"] else ": none is, and this is the most accurate"
            )
            line = f"{row['line']:.2f}×" if "line" in row else "–"
            near = f"{row['near']}, {row['near_accuracy']:.2f} %" if "near" in row else "none"
            spread = " [{:+.2f}, {:+.2f}]".format(*row["points_interval"]) if row.get("points_interval") else ""
            gain = f"{row['points']:+.2f}{spread}" if "near" in row else "–"
            who = "networks of all classes" if students else "all"
            lines.append(
                f"| {row['name']}, {row['accuracy']:.2f} % | {WORDS[size]} | {who} | {rival} "
                f"| {row['ratio']:.2f}×{interval} | {line} | {near} | {gain} |"
            )
    return [*lines, ""]


def pruned(result):
    rows = [row for row in result["rows"] if row["kind"] == "pruned"]
    if not rows:
        return []
    lines = ["| pruned for the classes | channels gone | MMACs, one / two tasks | one task | two tasks |",
             "|---|--:|--:|--:|--:|"]  # fmt: skip
    for row in rows:
        for each in row["pruned"]:
            macs = " / ".join(f"{value:.1f}" for value in each["macs"])
            mean = each["test"]["mean"]
            cells = f"{100 * each['share']:.0f} % | {macs} | {mean['one']:.2f} | {mean['two']:.2f}"
            lines.append(f"| {row['nets']} | {cells} |")
    return [*lines, ""]


def subset(result):
    rows = [row for row in result["rows"] if row["kind"] == "subset"]
    if not rows:
        return []
    names = list(rows[0]["test"]["tasks"])
    lines = ["| trained for one task alone | MMACs | test, mean of five tasks | images | epochs | minutes a task |",
             "|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for row in result["rows"]:
        if row["kind"] == "subset":
            lines.append(
                f"| {row['name']} | {row['macs'][0]:.1f} | {row['test']['mean']['one']:.2f} | {row['images']:,} | "
                f"{row['epochs']} | {row['minutes']:.1f} |"
            )
        elif "test" in row and row["seed"] == 0 and (len(row.get("macs", ())) > 1 or row["kind"] == "student"):
            places = [list(result["tasks"]).index(name) for name in names]
            mean = sum(row["test"]["one"][i] for i in places) / len(places)
            if row["macs"][0] <= 1.3 * rows[0]["macs"][0]:
                lines.append(
                    f"| {row['name']}, on the same tasks | {row['macs'][0]:.1f} | {mean:.2f} | {row['images']:,} | "
                    f"{row['epochs']} | – |"
                )
    return [*lines, ""]


def levers(result):
    rows = [row for row in result["rows"] if row["seed"] == 0 and row["kind"] in ("factors", "student")]
    lines = ["| on validation, seed 0 | MMACs, one task | one task | two tasks | all | minutes |",
             "|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: -row["validation"]["mean"]["one"]):
        mean = row["validation"]["mean"]
        cells = f"{mean['one']:.2f} | {mean['two']:.2f} | {mean['all']:.2f}"
        lines.append(f"| {row['name']} | {row['macs'][0]:.1f} | {cells} | {row['minutes']:.1f} |")
    return [*lines, ""]


def circumstances(result, times):
    first = next(row for row in result["rows"] if row["kind"] == "factors")
    sizes = {len(classes) for classes in result["tasks"].values()}
    text = (
        f"{sum(map(len, result['tasks'].values()))} classes, {len(result['tasks'])} tasks of "
        f"{'/'.join(map(str, sorted(sizes)))} that the teacher confuses, {first['images']:,} training images, "
        f"{first['epochs']} epochs where a row says nothing else; test accuracy in %, the mean over all tasks, pairs "
        f"and threes, logits masked to them. Training: {result['machine']['cpu']}, {first['threads']} threads, "
        f"{ {'32-true': 'fp32', 'bf16-mixed': 'bf16'}[first['precision']] }; minutes are of the training loop, and "
        "some rows shared the machine with other work."
    )
    if times:
        text += (
            f" Latencies: {times['machine']['cpu']}, ONNX Runtime, fp32, one thread, batch 1, "
            f"{times['protocol']['rounds']} alternating rounds of fresh processes, 95 % intervals."
        )
    return text


def with_times(result, folder, part=""):
    """Return the study's table, with its times where they are on record."""
    place = folder / f"{result['study']}-times.json"
    return front(result, json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None, part)
