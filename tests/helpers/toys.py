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


HEADER = "file,shape,size,lit"
SHAPES, SIZES, LIT = ("disc", "square", "star"), ("2", "10"), ("no", "yes")


def rows_of(count: int, *, gaps: bool = True) -> list[str]:
    """Return rows of `HEADER` for the images of `write_described`; every fifth shape and every seventh lit is unknown."""
    return [
        f"{i:03}.png,{'' if gaps and i % 5 == 4 else SHAPES[i % 3]},{SIZES[i % 2]},"
        f"{'' if gaps and i % 7 == 6 else LIT[i // 2 % 2]}"
        for i in range(count)
    ]


def write_described(root: Path, split: str, count: int, rows: list[str] | None = None, header: str = HEADER) -> Path:
    """Write a split of a described folder, 8×8 images and attributes.csv, and return its folder."""
    folder = root / split
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for path in (folder / "images").glob("*.png"):
        path.unlink()
    for i in range(count):
        random = np.random.default_rng((i, len(split)))
        pixels = random.integers(0, 256, size=(8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:03}.png")
    lines = [header, *(rows_of(count) if rows is None else rows)]
    (folder / "attributes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
