"""The tables of `portability.py` for RESULTS, from its JSON: what runs where, and what does not, with the reason."""

TITLES = {"onnx": "onnx (checker and reference)", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
          "opencv": "OpenCV dnn", "onnxruntime-web": "onnxruntime-web (WASM)"}  # fmt: skip
PRECISIONS, BATCHES = ("fp32", "fp16", "int8"), (0, 1)


def portability(result, part=""):
    """Return the table of what runs, and the list of what does not; or one of them."""
    parts = {"counts": counts(result), "failures": failures(result)}
    lines = parts[part] if part else [*parts["counts"], "", *parts["failures"]]
    return "\n".join([*lines, "", circumstances(result)]) + "\n"


def grouped(result):
    """Return the rows of each runtime and version."""
    found = {}
    for row in result["rows"]:
        name = f"{TITLES.get(row['runtime'], row['runtime'])} {row['version']}" + (
            f", `{row['files']}`" if row["files"] else ""
        )
        found.setdefault(name, []).append(row)
    return found


def counts(result):
    """Return how many forms of each precision and batch run right, and the largest difference of those."""
    columns = [(precision, batch) for precision in PRECISIONS for batch in BATCHES]
    heads = [f"{precision}, {batch or 'N'}" for precision, batch in columns]
    lines = ["| runtime | " + " | ".join(heads) + " | differs by at most |", "|---|" + "--:|" * len(heads) + "---|"]
    for name, rows in grouped(result).items():
        cells = []
        for precision, batch in columns:
            there = [row["outcome"] for row in rows if (row["precision"], row["batch"]) == (precision, batch)]
            wrong = there.count("wrong")
            right = f"{there.count('right')} of {len(there)}" if there else "–"
            cells.append(right + (f", **{wrong} wrong**" if wrong else ""))
        lines.append(f"| {name} | " + " | ".join([*cells, largest(rows)]) + " |")
    return lines


def largest(rows):
    """Return the largest difference of what is right, by precision."""
    found = {}
    for row in rows:
        if row["outcome"] == "right":
            found[row["precision"]] = max(found.get(row["precision"], 0.0), row["difference"])
    return ", ".join(f"{difference:.0e} {name}" for name, difference in found.items()) or "–"


def failures(result):
    """Return a line for each reason why files of a runtime do not run, or run wrong."""
    lines = []
    for name, rows in grouped(result).items():
        reasons = {}
        for row in rows:
            if row["outcome"] != "right":
                said = f": `{row['message']}`" if "message" in row else ", and nothing is said"
                reasons.setdefault(f"{row['outcome']}{said}", []).append(row)
        lines += [f"- {name}, {reason} – {which(found, rows)}" for reason, found in reasons.items()]
    return lines or ["Every file runs right everywhere."]


def which(found, rows):
    """Return what a reason holds for, in words."""
    if len(found) == len(rows):
        return "every file"
    seen = {}
    for row in found:
        seen.setdefault((row["precision"], row["batch"]), []).append(row["form"])
    merged = {}
    for (precision, batch), forms in seen.items():
        merged.setdefault(tuple(forms), []).append(f"{precision} {batch or 'N'}")
    total = len({row["form"] for row in rows})
    names = {forms: "every form" if len(forms) == total else "; ".join(forms) for forms in merged}
    return " / ".join(f"{', '.join(where)}: {names[forms]}" for forms, where in merged.items())


def circumstances(result):
    """Return what the files are, and what counts as right."""
    graphs, machine = result["graphs"], result["machine"]
    forms = dict.fromkeys(row["form"] for row in result["rows"])
    versions = ", ".join(f"{name} {version}" for name, version in result["made_by"].items())
    return (
        f"{len(forms)} forms ({'; '.join(forms)}), IR {', '.join(map(str, graphs['ir']))}, opset "
        f"{', '.join(map(str, graphs['opset']))}, made with {versions}, batch dynamic (N) or 1; {machine['cpu']}. "
        "Right: within 1e-4 (fp32), 0.01 (fp16), 0.2 (int8) × max(1, largest) of the golden samples, kfdeploy's own "
        "bounds; fp32 against the torch network, fp16 and int8 against the file's own answers in that ONNX Runtime."
    )
