"""Run every form of exported file in every runtime that installs, against the golden samples.

    python benchmarks/portability.py install --work DIR             # an environment for each, by names and versions
    python benchmarks/portability.py run --work DIR [--out FILE]    # all that are in DIR
    python benchmarks/portability.py run --runtime onnxruntime-1.15=/path/to/python --node DIR --web DIR

A runtime's environment is a folder in DIR with its name; the word before the first `-` says which runtime it is. Each
runs in a process of its own, as versions cannot share one: what it refuses, crashes on or gets wrong is written down.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path

import portability_forms as forms

from kfdeploy.errors import first_line
from kfdeploy.manifest import versions
from kfdeploy.measuring.rounds import describe_machine

HERE = Path(__file__).parent
OUT = HERE / "results" / "portability.json"
RUNTIMES = {
    "onnx-1.14": ("onnx==1.14.1", "numpy<2"),
    "onnx": ("onnx",),
    "onnxruntime-1.15": ("onnxruntime==1.15.1", "numpy<2"),
    "onnxruntime-1.18": ("onnxruntime==1.18.1", "numpy<2"),
    "onnxruntime": ("onnxruntime",),
    "openvino-2023.3": ("openvino==2023.3.0", "numpy<2"),
    "openvino-2024.0": ("openvino==2024.0.0", "numpy<2"),
    "openvino-2024.6": ("openvino==2024.6.0", "numpy<2.2"),
    "openvino": ("openvino",),
    "opencv-4.10": ("opencv-python-headless==4.10.0.84",),
    "opencv-4": ("opencv-python-headless<5",),
    "opencv-5": ("opencv-python-headless>=5",),
    "ncnn": ("ncnn", "pnnx"),
    "tract": ("tract", "numpy"),
}
JAVASCRIPT = ("onnxruntime-node", "onnxruntime-web")
LONG = 600.0  # seconds for all files of a runtime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    options = verbs.add_parser("install", help="make the environments")
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("names", nargs="*", default=[], metavar="RUNTIME", help="these alone")
    options = verbs.add_parser("run", help="run the files")
    options.add_argument("--work", type=Path, help="the folder of the environments")
    options.add_argument("--runtime", nargs="+", default=[], metavar="NAME=PYTHON", help="environments elsewhere")
    options.add_argument("--node", type=Path, help="a folder with node_modules/onnxruntime-node")
    options.add_argument("--web", type=Path, help="a folder with node_modules/onnxruntime-web")
    options.add_argument("--record", type=Path, default=forms.RECORD, help="a folder with a pool and students")
    options.add_argument("--only", nargs="+", default=[], help="these runtimes alone")
    options.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if asked.verb == "install":
        install(asked.work, asked.names)
        return
    pythons, node, web = places(asked)
    with tempfile.TemporaryDirectory() as place:
        files = forms.make(Path(place), asked.record)
        more = others(Path(place), asked.record, {name.partition("-")[0] for name in pythons})
        print(
            f"{len(files)} files, and {', '.join(f'{len(made)} for {kind}' for kind, made in more.items())}", flush=True
        )
        rows = []
        for name, python in pythons.items():
            for made in (files, more.get(name.partition("-")[0], [])):
                if made:
                    rows += told(judged(name, run_python(name, python, made, Path(place)), made))
        if node:
            rows += told(judged("onnxruntime-node", run_node(node, files, Path(place)), files))
        if web:
            rows += told(judged("onnxruntime-web", run_web(web, files, Path(place)), files))
        result = {"kind": "portability", "made_by": versions("onnx", "onnxruntime"), "graphs": forms.operators(files),
                  "machine": describe_machine(), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {asked.out}")


def others(place, record, kinds):
    """Return the files that are made for one runtime besides: OpenVINO's own, and what an option of ours mends."""
    found = {}
    if "openvino" in kinds:  # the newest wrote them, and each reads them; made in a process each, which takes a while
        found["openvino"] = forms.make(place, record, target="openvino", batches=(0,))
    if "ncnn" in kinds and forms.has("input"):  # it has no integers to begin with
        found["ncnn"] = forms.make(place, record, batches=(1,), input="float32")
    if "opencv" in kinds and forms.has("int8_head"):
        found["opencv"] = forms.make(place, record, precisions=("int8",), int8_head="conv")
    return found


def install(work, names):
    """Make an environment for each runtime in the folder `work`; one that is there stays."""
    work.mkdir(parents=True, exist_ok=True)
    for name, packages in RUNTIMES.items():
        if (names and name not in names) or (work / name).exists():
            continue
        print(f"{name}: {' '.join(packages)}", flush=True)
        venv.create(work / name, with_pip=True)
        pip = [str(work / name / "bin" / "python"), "-m", "pip", "install", "-q", *packages]
        if subprocess.run(pip, check=False).returncode:
            print(f"{name}: not installed")
    if not names and not (work / "node_modules").exists():
        # Its own script fetches libraries for NVIDIA's GPUs from elsewhere; the CPU's are in the package.
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(work), *JAVASCRIPT]
        subprocess.run(npm, check=False)


def places(asked):
    """Return the Pythons by runtime, and the folders of Node's and the browser's packages or None."""
    found, node, web = {}, asked.node, asked.web
    if asked.work:
        there = {name: asked.work / name / "bin" / "python" for name in RUNTIMES}
        found |= {name: path for name, path in there.items() if path.exists()}
        node, web = node or asked.work, web or asked.work
    found |= {name: Path(path) for name, _, path in (each.partition("=") for each in asked.runtime)}
    found = {name: path for name, path in found.items() if not asked.only or name in asked.only}
    there = [
        folder if folder and (folder / "node_modules" / package).is_dir() and asked.only in ([], [package]) else None
        for folder, package in zip((node, web), JAVASCRIPT, strict=True)
    ]
    return found, *there


def run_python(name, python, files, place):
    """Return the answers of a Python runtime by file."""
    words = [str(python.absolute()), str(HERE / "runtimes" / "worker.py"), name.partition("-")[0]]
    return run_worker(words, files, place, pixels=False)


def run_node(folder, files, place):
    """Return the answers of onnxruntime-node by file."""
    words = ["node", str(HERE / "runtimes" / "worker.mjs"), str(folder.resolve())]
    return run_worker(words, files, place, pixels=True)


def run_worker(words, files, place, *, pixels):
    """Return a worker's answers by file; what it does not come back from is a crash, and the rest is asked again."""
    found, left = {}, list(files)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    while left:
        jobs, answers = place / "jobs.json", place / "answers.jsonl"
        forms.write_jobs(left, jobs, pixels=pixels)
        answers.write_text("", encoding="utf-8")
        said = ""
        try:
            done = subprocess.run([*words, str(jobs), str(answers)], capture_output=True, text=True, check=False,
                                  timeout=LONG, env=environment, errors="replace")  # fmt: skip
            said = f"exit {done.returncode}"
            if done.returncode and not found and not answers.stat().st_size and "Error" in done.stderr:
                sys.exit(f"{words[0]} does not start: {done.stderr.strip().splitlines()[-1]}")
        except subprocess.TimeoutExpired:
            said = f"nothing in {LONG:.0f} s"
        for line in answers.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["name"]] = row
        left = [file for file in left if file.name not in found]
        if left:
            version = next((row["version"] for row in found.values()), "")
            found[left[0].name] = {"name": left[0].name, "version": version, "crashed": said}
            left = left[1:]
    return found


def run_web(folder, files, place):
    """Return the answers of onnxruntime-web, in Chromium, by file."""
    from portability_web import answers

    return answers(folder.resolve(), files, place)


def judged(name, answers, files):
    """Return a row for each file: right, wrong (silently), refused (with the message) or crashed."""
    rows = []
    for file in files:
        answer = answers[file.name]
        row = {"runtime": name.partition("-")[0] if name not in JAVASCRIPT else name, "version": answer["version"],
               "files": file.files, "form": file.form, "precision": file.precision, "batch": file.batch}  # fmt: skip
        if "outputs" not in answer:
            kind = "refused" if "refused" in answer else "crashed"
            rows.append(row | {"outcome": kind, "message": plain(first_line(RuntimeError(answer[kind])))})
            continue
        difference, equal = file.judge(answer["outputs"])
        row |= {"difference": None if difference == float("inf") else difference, "equal": equal}
        rows.append(row | {"outcome": "right" if difference <= file.bound else "wrong"})
    return rows


def told(rows):
    counts = Counter(row["outcome"] for row in rows)
    each = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{rows[0]['runtime']} {rows[0]['version']}: {each}", flush=True)
    return rows


def plain(message):
    """Return a message without the places it names, on this machine or on the one that built the runtime."""
    text = re.sub(r"\S*/\S*\.onnx", "the file", message)
    return re.sub(r"(?<![\w<])/\S*/", "", text)[:200]


if __name__ == "__main__":
    main()
