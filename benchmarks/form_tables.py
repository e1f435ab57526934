"""The tables of `forms.py` and `factors.py`, from their JSON."""

from factors import MEASURES, summary

WAYS = {"single-task": "single-task", "multi-task": "multi-task", "MTL2MTL": "multi-task, distilled (MTL2MTL)",
        "MTL2STL": "single-task, distilled (MTL2STL)", "KF": "factors (KF)"}  # fmt: skip


def forms(result):
    """Return the new graphs against those of an earlier commit."""
    lines = [
        "| tasks | precision | form | new, p50 ms | before, p50 ms | ratio, 95 % interval |",
        "|--:|---|---|--:|--:|--:|",
    ]
    for row in result["rows"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['K']} | {row['precision']} | {row['form']} | {row['now_ms']:.4f} | {row['before_ms']:.4f} | "
            f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}] |"
        )
    machine, nets = result["machine"], result["nets"]
    rounds = result["protocol"]["rounds"]
    lines += [
        "", f"{nets['ckn']} with TSNs {nets['tsn']}, images of {'×'.join(map(str, result['image']))}; ONNX Runtime "
        f"{machine['versions']['onnxruntime']} on one thread of {machine['cpu']}, single-stream, {rounds} alternating "
        f"rounds of fresh processes; before: commit {result['before']}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def disentangled(result, part=""):
    """Return what five ways are worth by field, or with `part` how disentangled their codes are."""
    found = summary(result)
    if part == "codes":
        lines = ["| codes | D | MIG | SAP | DCI disentanglement | completeness | informativeness | FactorVAE | seeds |",
                 "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        for name, numbers in found.items():
            if MEASURES[0] in numbers:
                each = " | ".join(f"{numbers[key][0]:.3f} ± {numbers[key][1]:.3f}" for key in MEASURES)
                lines.append(f"| {name} | {numbers['D'][0]:.0f} | {each} | {numbers[MEASURES[0]][2]} |")
        return "\n".join(lines) + f"\n\n{_about(result)}\n"
    fields = [key.removeprefix("auc ") for key in next(iter(found.values())) if key.startswith("auc ")]
    lines = [f"| way | {' | '.join(fields)} | mean | MMACs | seeds |", f"|---|{'--:|' * (len(fields) + 3)}"]
    macs = {name: row.get("macs", 0) / 1e6 for a in result["seeds"].values() for name, row in a["methods"].items()}
    for name, told in WAYS.items():
        if name in found:
            auc, right = ([found[name][f"{key} {field}"] for field in fields] for key in ("auc", "accuracy"))
            cells = " | ".join(f"{a[0]:.3f} ({100 * r[0]:.1f} %)" for a, r in zip(auc, right, strict=True))
            mean = sum(a[0] for a in auc) / len(auc), 100 * sum(r[0] for r in right) / len(right)
            lines.append(f"| {told} | {cells} | {mean[0]:.3f} ({mean[1]:.1f} %) | {macs[name]:.1f} | {auc[0][2]} |")
    return "\n".join(lines) + f"\n\n{_about(result)}\n"


def _about(result):
    rows = [row for about in result["seeds"].values() for row in about["methods"].values()]
    machine = result["machine"]
    return (
        f"{rows[0]['images']:,} training images, {rows[0]['epochs']} epochs, {rows[0]['test']:,} test images; means "
        f"over the seeds, ± half their range; {machine['cpu']}, two threads."
    )
