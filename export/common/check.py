"""Prove this installation right: the golden images through the model, all its outputs against those on record.

python check.py [--threads 1] [--atol 0.001]

What is allowed follows from the golden logits and the precision; `--atol` puts another number in its place.
"""

import json
import sys

import kit
import numpy as np

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.2}  # over max(1, largest logit), as kfdeploy's own


def main():
    """Compare, print, and exit 1 where the difference is not allowed."""
    options = kit.parser(__doc__)
    options.add_argument("--atol", type=float, help="the largest difference to allow")
    asked = options.parse_args()
    about = kit.manifest()
    images, torch_logits, expected = kit.golden()
    held(about, images, torch_logits, expected)
    logits = kit.run(kit.open_session(asked.threads), images, about)
    if logits.shape != expected.shape:
        sys.exit(f"error: the model's logits have shape {logits.shape}, the golden samples' have {expected.shape}")
    difference = float(np.nan_to_num(np.abs(logits - expected), nan=np.inf, posinf=np.inf).max())
    agreement, start = [], 0
    for _, names in kit.fields(about).values():  # an answer a field
        own = slice(start, start + len(names))
        agreement.append(float((logits[:, own].argmax(1) == torch_logits[:, own].argmax(1)).mean()))
        start += len(names)
    allowed = asked.atol
    if allowed is None:
        allowed = TOLERANCE[about["precision"]] * max(1.0, float(np.abs(expected).max()))
    text = f"differs by {difference:.1e} on {len(images)} golden samples ({allowed:.1e} allowed)"
    if not (np.isfinite(difference) and difference <= allowed):
        sys.exit(f"error: this model {text}")
    print(f"right: {text}; {100 * np.mean(agreement):.0f} % of the answers are the torch network's")


def held(about, images, torch_logits, expected):
    """Exit where the golden samples prove nothing, or the manifest says something else than they do."""
    shape = (len(images), sum(len(names) for _, names in kit.fields(about).values()))
    if not len(images) or expected.shape != shape or torch_logits.shape != shape:
        sys.exit(
            f"error: the golden logits have shapes {torch_logits.shape} and {expected.shape}, for {shape[0]} images "
            f"and {shape[1]} classes\nhint:  copy the whole folder again"
        )
    for logits in (torch_logits, expected):
        if not np.isfinite(logits).all():
            sys.exit("error: the golden logits are not finite\nhint:  copy the whole folder again")
    if about["precision"] not in TOLERANCE:
        sys.exit(f"error: there is no precision '{about['precision']}' (allowed: {', '.join(TOLERANCE)})")
    with np.load(kit.HERE / "golden.npz") as arrays:
        said = json.loads(arrays["about"].tobytes()) if "about" in arrays else {}
    for name in ("image", "tasks", "precision", "open_set"):
        if name in said and said[name] != about.get(name):
            sys.exit(f"error: manifest.json does not describe this model: its '{name}' is not what golden.npz says")


if __name__ == "__main__":
    kit.begin(main)
