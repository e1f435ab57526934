import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kfdeploy.data.folders import class_folders, images_in, left_out
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec

SPEC = ImageSpec((8, 8), 3, (0.5,) * 3, (0.25,) * 3)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


def test_what_systems_and_editors_leave_behind_is_nobodys_picture(tmp_path):
    for name in (
        "cat/1.png",
        "cat/.ipynb_checkpoints/1-checkpoint.png",
        ".ipynb_checkpoints/x.png",
        "__MACOSX/cat/1.png",
    ):
        picture(tmp_path / name)
    for name in ("cat/._1.png", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/labels.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [folder.name for folder in class_folders(tmp_path)] == ["cat"]
    found, others = images_in(tmp_path / "cat")
    assert ([path.name for path in found], others) == (["1.png"], {})


def test_other_kinds_and_nested_folders_are_read_and_the_rest_is_counted(tmp_path):
    cat = tmp_path / "train" / "cat"
    for name in ("b.tif", "a.png", "2024/c.gif", "2024/may/d.png"):
        picture(cat / name)
    for name in ("x.psd", "y.psd", "2024/noext"):
        (cat / name).write_bytes(b"x")
    found = load_split("folder", str(tmp_path), "train", SPEC)
    assert [path.relative_to(cat).as_posix() for path in found.paths] == [
        "2024/c.gif",
        "2024/may/d.png",
        "a.png",
        "b.tif",
    ]
    assert found.load().shape == (4, 8, 8, 3)
    assert found.note.startswith("3 files in '")
    assert found.note.endswith("2 of '.psd', 1 of 'no extension'")


def test_links_are_followed_and_do_not_lead_round(tmp_path):
    picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "one.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cat" / "round").symlink_to(tmp_path / "cat")
    assert [path.name for path in images_in(tmp_path / "cat")[0]] == ["1.png", "one.png"]


def test_names_that_would_break_later_are_refused(tmp_path):
    (tmp_path / "caf\u00e9").mkdir()
    (tmp_path / "cafe\u0301").mkdir()
    with pytest.raises(DataError, match="two class folders .* are called 'café'"):
        class_folders(tmp_path)
    other = tmp_path / "other"
    Path(other, os.fsdecode(b"caf\xe9")).mkdir(parents=True)
    with pytest.raises(DataError, match="is no name in UTF-8"):
        class_folders(other)


def test_nothing_left_out_is_not_spoken_of(tmp_path):
    assert left_out({}, tmp_path) == ""
