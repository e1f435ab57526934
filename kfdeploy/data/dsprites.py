"""dSprites (Matthey et al. 2017), rendered here: white shapes on black, 64×64, each combination of five factors once.

The geometry was fitted to the published images; `tests/data/test_dsprites.py` holds it to them where they are at hand:
a few may differ in a pixel or two on an edge. As in the published set the 40 orientations go from 0 to 2π *inclusive*:
the first and the last are the same picture, and nothing can tell them apart. So no network is right in more than
98.75 % of orientations.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from kfdeploy.arrays import Floats, Images, Labels
from kfdeploy.data.described import stored
from kfdeploy.data.imageset import ImageSet
from kfdeploy.tasks.spec import ImageSpec, column_names

SIDE = 64  # pixels
COUNT = 737_280
SHAPES = ("square", "ellipse", "heart")
# The factors in the order of the published set, the last varying fastest.
FACTORS = {
    "shape": SHAPES,
    "scale": tuple(f"{0.5 + 0.1 * i:.1f}" for i in range(6)),
    "orientation": tuple(map(str, range(40))),
    "x": tuple(map(str, range(32))),
    "y": tuple(map(str, range(32))),
}
SEED = 42
_TEST = 3  # of ten images
_AT_ONCE = 512  # images: some ten megabytes of working space
_GRID = 256  # places in a pixel that the corner of an outline can have
_SQUARE = 9.6  # pixels from the centre to a side, at scale 1
_ELLIPSE = (12.76830142, 7.21801909)
_HEART = (9.6, -1.43995921, -0.66206739)  # how wide, how far down, and how high


def dsprites(split: str, image: ImageSpec, images: int) -> ImageSet:
    """Return a split of the first `images` of all, in an order that never changes; rendered when they are asked for.

    Of ten images seven are for training: those of fewer images are a part of those of more, in either split.
    """
    order = _order()[:images]
    test = np.arange(len(order)) % 10 >= 10 - _TEST
    chosen = order[test if split == "test" else ~test]
    columns = [name for field, texts in FACTORS.items() for name in column_names(field, texts)]
    fields = [field for field, texts in FACTORS.items() for _ in texts]
    starts = np.cumsum([0, *map(len, FACTORS.values())])[:-1]
    return replace(
        stored(Sprites(chosen), len(chosen), image), classes=tuple(columns), fields=tuple(fields),
        labels=factors_of(chosen) + starts,
    )  # fmt: skip


@cache
def _order() -> Labels:
    # numpy promises that this generator's numbers stay what they are, which it does not of newer ones.
    found: Labels = np.random.RandomState(SEED).permutation(COUNT)
    return found


@dataclass(frozen=True)
class Sprites:
    """Images of the set by their numbers in it."""

    at: Labels  # (N,)

    def take(self, indices: Labels) -> "Sprites":
        """Return the images at `indices`."""
        return replace(self, at=self.at[indices])

    def pixels(self, indices: Labels) -> Images:
        """Return the images at `indices`, uint8 (n, 64, 64)."""
        return render(factors_of(self.at[indices]))

    def __str__(self) -> str:
        return "dsprites"


def factors_of(numbers: Labels) -> Labels:
    """Return the factors (N, 5) of images by their numbers (N,) in the set, each as a number of its classes."""
    return np.stack(np.unravel_index(numbers, tuple(map(len, FACTORS.values()))), axis=1)


def render(factors: Labels) -> Images:
    """Return images, 0 and 255, uint8 (N, 64, 64), of factors (N, 5)."""
    out = np.empty((len(factors), SIDE, SIDE), np.uint8)
    for shape, outline in enumerate(_outlines()):
        of_shape = np.flatnonzero(factors[:, 0] == shape)
        for start in range(0, len(of_shape), _AT_ONCE):
            rows = of_shape[start : start + _AT_ONCE]
            out[rows] = _filled(*_placed(outline, factors[rows]))
    return out


@cache
def _outlines() -> tuple[Floats, ...]:
    """Return the corners (2, V) of each shape at scale 1, in pixels from its centre, x and y."""
    square = _SQUARE * np.array([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    round_ = np.arange(100) * 2 * np.pi / 100
    ellipse = np.stack([_ELLIPSE[0] * np.cos(round_), _ELLIPSE[1] * np.sin(round_)])
    t = np.arange(150) * 2 * np.pi / 150
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)  # the classic heart
    heart = np.stack([_HEART[0] * np.sin(t) ** 3, _HEART[1] + _HEART[2] * height])
    return square, ellipse, heart


def _placed(outline: Floats, factors: Labels) -> tuple[Floats, Floats]:
    """Return the corners of outlines in the image, x and y (N, V): scaled, turned, moved."""
    _, scale, orientation, x, y = factors.T[:, :, None]  # (N, 1) each
    size = 0.5 + 0.1 * scale
    angle = -2 * np.pi * orientation / (len(FACTORS["orientation"]) - 1)
    across, down = np.cos(angle) * size, np.sin(angle) * size
    at_x = 16 + 32 * x / 31 + across * outline[0] - down * outline[1]
    at_y = 16 + 32 * y / 31 + down * outline[0] + across * outline[1]
    return np.floor(at_x * _GRID + 0.5) / _GRID, np.floor(at_y * _GRID + 0.5) / _GRID


def _filled(x: Floats, y: Floats) -> Images:
    """Return filled outlines (N, 64, 64) of corners x and y (N, V): a pixel is white whose centre lies inside.

    Every edge turns over all pixels to its right, in the rows that it crosses; inside, an odd number has turned them.
    """
    next_x, next_y = np.roll(x, -1, 1), np.roll(y, -1, 1)
    top = np.ceil(np.minimum(y, next_y) - 0.5).astype(np.int64)  # the first row whose centre an edge passes
    rows = np.ceil(np.maximum(y, next_y) - 0.5).astype(np.int64) - top  # and how many they are
    image, edge = np.nonzero(rows)
    count = rows[image, edge]
    first = np.cumsum(count) - count
    row = np.repeat(top[image, edge] - first, count) + np.arange(count.sum())
    slope = (next_x - x)[image, edge] / (next_y - y)[image, edge]
    each = np.repeat(np.arange(len(image)), count)
    begin_x, begin_y, slope = x[image, edge][each], y[image, edge][each], slope[each]
    column = np.ceil(begin_x + (row + 0.5 - begin_y) * slope - 0.5).astype(np.int64)
    place = (image[each] * SIDE + row) * SIDE + np.clip(column, 0, SIDE - 1)
    turned = np.bincount(place, minlength=len(x) * SIDE * SIDE).astype(np.uint8).reshape(len(x), SIDE, SIDE) & 1
    inside: Images = np.bitwise_xor.accumulate(turned, axis=2) * np.uint8(255)
    return inside
