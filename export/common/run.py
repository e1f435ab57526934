"""Classify images: one line of JSON for each, the likeliest class first; ends with 1 where one could not be read.

python run.py photo.png folder/ [--top 3] [--threads 1]
"""

import sys

import kit
import numpy as np


def main():
    """Read the command line and print."""
    options = kit.parser(__doc__)
    options.add_argument("images", nargs="+", help="files, or folders of them")
    options.add_argument("--top", type=int, default=3, help="how many classes to print (default 3)")
    asked = options.parse_args()
    about = kit.manifest()
    names, paths = kit.classes(about), kit.files(asked.images)
    session = kit.open_session(asked.threads)
    broken = False
    for start in range(0, len(paths), 256):
        piece, images = [], []
        for path in paths[start : start + 256]:
            try:
                images.append(kit.read(path, about["image"]))
                piece.append(path)
            except SystemExit as error:
                kit.say({"image": str(path), "error": str(error)})
                print(kit.shown.lines(error), file=sys.stderr)
                broken = True
        if not piece:
            continue
        images = np.stack(images)
        outputs = kit.outputs(session, images, about["options"]["batch"])
        logits = outputs["logits"].astype(np.float64)
        if logits.shape[1] != len(names):
            sys.exit(f"error: the model gives {logits.shape[1]} logits, and manifest.json names {len(names)} classes")
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        for number, (path, row) in enumerate(zip(piece, shares)):
            best = np.argsort(-row, kind="stable")[: asked.top]
            found = [{"class": names[i], "probability": round(float(row[i]), 6)} for i in best]
            line = {"image": str(path), "classes": found}
            if "known" in outputs:  # below 0: none of these
                line["known"] = round(float(outputs["known"][number]), 6)
            kit.say(line)
    raise SystemExit(broken)


if __name__ == "__main__":
    kit.begin(main)
