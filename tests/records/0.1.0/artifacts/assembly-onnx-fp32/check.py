"""Prove this installation right: the golden images through the model, against the logits on record.

python check.py [--threads 1]
"""

import sys

import kit
import numpy as np


def main():
    """Compare, print, and exit 1 where the difference is not allowed."""
    asked = kit.parser(__doc__).parse_args()
    about = kit.manifest()
    images, torch_logits, expected = kit.golden()
    logits = kit.run(kit.open_session(asked.threads), images, about["options"]["batch"])
    if logits.shape != expected.shape:
        sys.exit(f"error: the model's logits have shape {logits.shape}, the golden samples' have {expected.shape}")
    difference = float(np.nan_to_num(np.abs(logits - expected), nan=np.inf).max())
    agreement = float((logits.argmax(1) == torch_logits.argmax(1)).mean())
    allowed = about["verify"]["engine_tolerance"]
    text = f"differs by {difference:.1e} on {len(images)} golden samples ({allowed:.1e} allowed)"
    if not difference <= allowed:
        sys.exit(f"error: this model {text}")
    print(f"right: {text}; {100 * agreement:.0f} % of the answers are the torch network's")


if __name__ == "__main__":
    main()
