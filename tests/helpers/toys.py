"""The recipe of the toy world, and its images."""

from pathlib import Path

import numpy as np
from PIL import Image

TOY = """
name = "toy"
seed = 1

[tasks]
pets = ["cat", "dog"]
"sea horse" = ["sea horse"]
"élan" = ["élan"]
"ünï/c" = ["uni"]

[data]
source = "folder"
root = "ROOT"
ignore = ["junk"]
validation = 0.25

[image]
size = [8, 8]
channels = 3
mean = [0.5, 0.45, 0.4]
std = [0.25, 0.2, 0.3]

[augment]
crop = 1
flip = true

[teacher]
source = "train"
net = { family = "convnet", channels = [16, 16], strides = [2, 2] }

[teacher.train]
epochs = 4
batch = 16
lr = 0.05

[ckn]
family = "cifar_resnet"
depth = 8
width = 8

[tsn]
tap = "stage2"
net = { family = "convnet", channels = [8, 16], strides = [2, 1] }

[train]
epochs = 4
batch = 16
lr = 0.05

[run]
precision = "fp32"

[[students]]
name = "small"
net = { family = "convnet", channels = [16, 16], strides = [2, 2] }
"""


def write_images(root: Path, split: str, per_class: int, size: int = 8) -> None:
    """Write PNGs whose colours depend on their class, so that there is something to learn."""
    for label, name in enumerate(("cat", "dog", "junk", "sea horse", "uni", "élan")):
        random = np.random.default_rng((label, len(split)))
        folder = root / split / name
        folder.mkdir(parents=True)
        base = np.random.default_rng(label).integers(40, 216, size=(size, size, 3))
        for i in range(per_class):
            noisy = np.clip(base + random.integers(-40, 40, size=base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{i:03}.png")
