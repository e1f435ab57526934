"""Images are known by what they contain: by what is hashed, what is found again, and what has changed."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from kfdeploy.data.content import Record, find, of_arrays, of_files
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError


@pytest.fixture
def whole(toy):
    return load_split("folder", str(toy.data), "train", toy.recipe.image.spec())


def test_a_files_content_is_its_bytes_and_an_arrays_its_pixels(whole, tmp_path):
    (tmp_path / "a").write_bytes(b"\0" * 3_000_000)
    expected = hashlib.sha256(b"\0" * 3_000_000).digest()[:8]
    assert of_files([tmp_path / "a"])[0].tobytes() == expected
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert of_arrays(pixels)[1].tobytes() == hashlib.sha256(pixels[1].tobytes()).digest()[:8]
    assert of_files([]).shape == (0, 8)
    with pytest.raises(DataError, match="'.*gone' cannot be read"):
        of_files([tmp_path / "gone"])
    assert (whole.identified().take(np.array([3, 1])).content == whole.contents()[[3, 1]]).all()


def test_of_equal_images_the_one_in_the_same_class_is_taken():
    content = np.repeat(np.arange(3, dtype=np.uint8), 2)[:, None].repeat(8, 1)  # 0 0 1 1 2 2
    names = ["cat", "dog"] * 3
    assert find(content[[1, 2]], ["dog", "cat"], content, names) == [1, 2]
    assert find(content[[4]], ["fox"], content, names) == [4]
    assert find(content[[0]], ["cat"], content[2:], names[2:]) == [-1]


def test_a_record_is_read_as_it_was_written_and_says_what_changed(whole):
    first = whole.record([0, 5])
    assert Record.of(first.arrays()).change(first) == ""
    assert first.about() | {"sha256": ""} == {
        "train": len(whole) - 2, "validation": 2, "order": "names", "sha256": "",
    }  # fmt: skip
    assert first.names[0].startswith("cat/")
    assert first.sizes[0] == whole.paths[0].stat().st_size
    fewer = whole.take(np.arange(1, len(whole))).record([4])
    assert f"1 of {len(whole)} are gone, such as '{first.names[0]}'" in first.change(fewer)
    assert f"1 of {len(whole)} are new" in fewer.change(first)
    assert "the same images, split" in first.change(whole.record([1, 5]))
    turned = whole.take(np.arange(len(whole))[::-1]).record([len(whole) - 1, len(whole) - 6])
    assert "another order" in first.change(turned)
    with pytest.raises(DataError, match="damaged"):
        Record.of({"names": np.zeros(1, np.uint8)})
    named = replace(first, classes=tuple(f"{name}s" for name in first.classes))
    assert first.change(named)
