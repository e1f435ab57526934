"""The tables of what factorizing costs, and of what it is worth: `benchmarks/factorize_speed.py` and its kin."""

import statistics


def spread(values):
    """Return a mean with its standard deviation, where there are several."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def nets(found):
    """Return what a row trained, in words."""
    return found if isinstance(found, str) else f"{found['ckn']}; {found['tsn']} on {found['tap']['name']}"


def speed(result):
    """Return the tables of `benchmarks/factorize_speed.py`."""
    lines = ["| TSNs | K | batch | as a bank, images/s | one by one, images/s | ratio |", "|---|--:|--:|--:|--:|--:|"]
    if "bank" not in result:  # a run of some parts alone
        lines = []
    for row in result.get("bank", ()):
        lines.append(
            f"| {row['net']}{', bf16' if row.get('precision') == 'bf16' else ''} | {row['K']} | {row['batch']} "
            f"| {row['bank_images_s']:,.0f} "
            f"| {row['separate_images_s']:,.0f} | {row['ratio']:.2f} |"
        )
    lines += [*([""] if lines else []), "| what | measured |", "|---|---|"]
    lines += [
        f"| teacher replay, a step of {row['what']} | {row['asked_ms']:.0f} ms asked, {row['kept_ms']:.0f} ms kept: "
        f"{row['ratio']:.2f}× |"
        for row in result.get("replay", ())
    ]
    if outside := result.get("outside"):
        lines.append(f"| share of a step outside networks and losses | {100 * outside['share']:.1f} % |")
    if precision := result.get("precision"):
        has = "has" if result["machine"]["bf16"] else "has no"
        lines.append(
            f"| bf16 and channels-last against fp32 and NCHW | {precision['ratio']:.2f}× (this processor {has} bf16 "
            "arithmetic) |"
        )
        if "fp32_nchw_convolutions_ms" in precision:
            steps = [precision[f"{way}{part}_ms"] for part in ("", "_convolutions")
                     for way in ("fp32_nchw", "bf16_channels_last")]  # fmt: skip
            lines.append(
                "| the same, ms a step and its convolutions alone | {:.0f} → {:.0f}, {:.0f} → {:.0f} |".format(*steps)
            )
    if tasks := result.get("tasks"):
        sizes = ", ".join(f"{row['K']}: {row['step_ms']:.0f}" for row in tasks["rows"])
        lines.append(
            f"| ms a step at K tasks (batch {tasks['batch']}, without the teacher) | {sizes}; "
            f"{tasks['ms_per_task']:.1f} ms a task, exponent {tasks['exponent_from_10']:.2f} from K = 10 on |"
        )
    if waiting := result.get("waiting"):
        ms, ratio = waiting["step_ms"], waiting["default_over_passive"]
        for place, told in (("quiet", "nothing else running"), ("busy", "one busy process beside it")):
            lines.append(
                f"| OpenMP waiting asleep, {told} | {ms[f'{place}, default']:.0f} → {ms[f'{place}, passive']:.0f} ms a "
                f"step: {ratio[place]:.2f}× |"
            )
    if memory := result.get("memory"):
        lines.append(f"| freed memory kept, against glibc's default | {memory['ratio']:.2f}× |")
        lines.append(f"| peak of memory, CIFAR-10 held and ten tasks | {memory['kept']['peak_mib']:,} MiB |")
    if pointwise := result.get("pointwise"):
        each = (
            f"{row['shape']}: {row['grouped_ms']:.0f}, {row['products_ms']:.0f}, {row['one_by_one_ms']:.0f} ms"
            for row in pointwise
        )
        what = "a bank's 1×1 convolutions (K = 10, batch 32): grouped, batched products, one by one"
        lines.append(f"| {what} | {'; '.join(each)} |")
    lines += [
        "",
        f"{result['machine']['cpu']}, {result['threads']} threads, fp32 where nothing else is said, medians of "
        f"{result['rounds']} alternating rounds; synthetic images, the `cifar10` recipe's nets.",
    ]
    return "\n".join(lines) + "\n"


def row_counts(row):
    """Whether a row of the Pareto study is there for its number of tasks alone."""
    return row["subset"].startswith("first ")


def pareto(result):
    """Return the table of `benchmarks/pareto.py`: each named subset's assembly against every student."""
    lines = [
        "| subset | assembly ms | accuracy | on the front | student | ms | accuracy | ratio | points |",
        "|---|--:|--:|---|---|--:|--:|---|---|",
    ]
    for row in result["rows"]:
        if row_counts(row):
            continue
        mine, *others = row["models"]
        for other, against in zip(others, row["against"], strict=True):
            low, high = against["interval"]
            worst, best = against["points_interval"]
            lines.append(
                f"| {row['subset']} | {mine['p50_ms']:.3f} | {100 * mine['accuracy']:.2f} % "
                f"| {'yes' if row['on_front'] else 'no'} | {other['name']} | {other['p50_ms']:.3f} "
                f"| {100 * other['accuracy']:.2f} % | {against['ratio']:.3f} [{low:.3f}, {high:.3f}] "
                f"| {against['points']:+.2f} [{worst:+.2f}, {best:+.2f}] |"
            )
    counted = [len(row["tasks"]) for row in result["rows"] if row_counts(row)]
    if len(counted) == 1:  # of one size alone it can be said which are faster there, and not from where on
        even = (
            f"Faster than the assembly of the first {counted[0]} tasks: "
            + (", ".join(n for n, k in result["break_even"].items() if k) or "none")
            + ". "
        )
    elif not counted:
        even = ""
    else:
        each = (f"{name} from {k} tasks on" if k else f"{name} never" for name, k in result["break_even"].items())
        even = f"Faster than the assembly of so many first tasks: {', '.join(each)}. "
    machine = result["machine"]
    named = [row for row in result["rows"] if not row_counts(row)]
    seeds = sorted({against["seeds"] for row in named for against in row["against"]})
    lines += [
        "",
        f"{even}95 % intervals; accuracies are means over {' or '.join(map(str, seeds))} "
        f"seed{'s' if seeds[-1] > 1 else ''}, points paired by seed and by image. {machine['cpu']}, "
        f"{result['target']} fp32, single-stream, one thread; {result['training']['epochs']} epochs of training.",
    ]
    return "\n".join(lines) + "\n"
