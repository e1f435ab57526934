"""Classify images: one line of JSON for each, the likeliest class first; ends with 1 where one could not be read.

A model of several fields gives an answer for each, by the field's name.

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
    fields, paths = kit.fields(about), kit.files(asked.images)
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
        kit.side_by_side(outputs, about)  # or it says what is not as it should be
        answers = {field: answered(outputs, *own, asked.top) for field, own in fields.items()}
        for number, path in enumerate(piece):
            each = {field: lines[number] for field, lines in answers.items()}
            told = each[kit.CLASS] if list(each) == [kit.CLASS] else {"answers": each}
            kit.say({"image": str(path), **told})
    raise SystemExit(broken)


def answered(outputs, name, names, top):
    """Return what is printed of each image for the output `name`, whose columns are called `names`."""
    logits = outputs[name].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    margins = outputs.get("known" if name == "logits" else f"{name}.known")
    found = []
    for number, row in enumerate(shares):
        best = np.argsort(-row, kind="stable")[:top]
        line = {"classes": [{"class": names[i], "probability": round(float(row[i]), 6)} for i in best]}
        if margins is not None:  # below 0: none of these
            line["known"] = round(float(margins[number]), 6)
        found.append(line)
    return found


if __name__ == "__main__":
    kit.begin(main)
