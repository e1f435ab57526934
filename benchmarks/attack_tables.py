"""The table of `attack.py` for RESULTS, from its JSON."""

TITLES = {
    "mutants": "damaged and hostile files of {} kinds, read",
    "altered": "folders of {} kinds, altered and covered up, read and written to",
    "races": "rounds of processes at once, {} races",
    "kills": "kills at a change of the disk, {} verbs",
    "cuts": "power cuts at a change of the disk and after the end, {} verbs",
}


def attack(result):
    """Return a row for each part: what was tried, and what must be nothing."""
    lines = [
        "| attack | tried | tracebacks | wrongly accepted | changed outside | torn | worst MB | worst s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for part, jobs in result["parts"].items():
        title = TITLES[part].format(len({name.rpartition(", ")[0] or name for name in jobs}))
        sums = [f"{sum(job[key] for job in jobs.values()):,}" if _has(jobs, key) else "–"
                for key in ("tried", "tracebacks", "accepted", "outside", "torn")]  # fmt: skip
        worst = [max(job["worst"][key] for job in jobs.values()) if _has(jobs, "worst") else None
                 for key in ("peak", "processor")]  # fmt: skip
        ends = ["–" if value is None else f"{value:.{digits}f}" for value, digits in zip(worst, (0, 1), strict=True)]
        lines.append(f"| {title} | " + " | ".join(sums + ends) + " |")
    return "\n".join([*lines, "", " ".join(_said(result))]) + "\n"


def _has(jobs, key):
    return all(key in job for job in jobs.values())


def _said(result):
    """Return the sentences below the table."""
    parts, machine = result["parts"], result["machine"]
    wrong = sum(len(job["bad"]) for jobs in parts.values() for job in jobs.values())
    yield "Nothing is out of bounds." if not wrong else f"{wrong} were out of bounds: see `bad` in the JSON."
    if "races" in parts:
        won, told = (sum(job[key] for job in parts["races"].values()) for key in ("won", "told"))
        yield f"Of the racing processes {won:,} did what they were asked, and {told:,} were told why not."
    for part, word in (("kills", "kill"), ("cuts", "cut")):
        if part in parts:
            old, new, none = (sum(job.get(k, 0) for job in parts[part].values()) for k in ("old", "new", "absent"))
            yield f"After a {word}: {old:,} old, {new:,} new, {none:,} absent."
    where = sorted({job["ext4"] for job in parts.get("cuts", {}).values()})
    if where:
        yield f"ext4: {', '.join(where)}, shut down without its journal."
    yield "Seconds are of the processor; at most 300 MB and 10 s are allowed."
    yield f"{machine['cpu']}, {machine['cores']} cores."
