"""Names out of files, and links in folders: one check each, whoever asks."""

import json

import pytest

from kfdeploy.errors import PoolError
from kfdeploy.manifest import check_files, describe_files, read_file
from kfdeploy.names import check_inside, check_name, inside, tree

GOOD = ("a", "tasks/%C3%A9lan.safetensors", "a b/ä.onnx", "..a", "a..", ".a", "x" * 255, "/".join(["x" * 200] * 5))


@pytest.mark.parametrize("name", GOOD)
def test_a_name_of_ours_is_taken(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "names a file by nothing: ''"),
        ("a//b", "with an empty part in its name"),
        ("a/", "with an empty part in its name"),
        ("./a", "with an empty part in its name"),
        ("a/./b", "with an empty part in its name"),
        ("a\0b", r"with a control character in its name: 'a\\x00b'"),
        ("a\nb", "with a control character"),
        ("a\x1b[2J", "with a control character"),
        ("a\x7f", "with a control character"),
        ("a\x85", "with a control character"),
        ("\ud800", "with a control character"),
        ("x" * 256, "more than 1024 bytes in its name, or 255 in a part of it"),
        ("é" * 128, "more than 1024 bytes in its name, or 255 in a part of it"),
        ("/".join(["x" * 200] * 6), "more than 1024 bytes in its name, or 255 in a part of it"),
        (None, "names a file that is no text: None"),
        (["a"], "names a file that is no text"),
        (7, "names a file that is no text: 7"),
    ],
)
def test_a_name_that_is_none_is_refused(name, message, tmp_path):
    with pytest.raises(PoolError, match=message) as caught:
        check_inside(tmp_path, [name])
    assert caught.value.hint == "do not use this folder"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "../a", "a\0", "x" * 256, "c:", None, 1, {}])
def test_what_becomes_the_name_of_a_folder_is_one_plain_part(name):
    with pytest.raises(PoolError, match="the name in 'x' is .*, which cannot be the name of a folder"):
        check_name(name, "the name in 'x'")


def test_ten_thousand_names_take_no_time(tmp_path):
    import time

    names = [f"evidence/task%20{i}.safetensors" for i in range(30_000)]
    before = time.process_time()
    check_inside(tmp_path, names)
    assert time.process_time() - before < 1


def test_a_link_below_a_folder_is_not_followed_and_the_folder_may_be_one(tmp_path):
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "real" / "in" / "file").write_text("x")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "folder", "in/file").read_text() == "x"
    files = describe_files(tmp_path / "real", [tmp_path / "real" / "in" / "file"])
    assert read_file(tmp_path / "folder", files, "in/file") == b"x"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "in").symlink_to(tmp_path / "real" / "in")
    (tmp_path / "other" / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("in", "in/file", "gone", "gone/x"):
        with pytest.raises(PoolError, match=r"is a symbolic link, and inside a folder of kfdeploy none is followed"):
            inside(tmp_path / "other", name)
    with pytest.raises(PoolError, match="is a symbolic link"):
        check_files(tmp_path / "other", files, files)
    with pytest.raises(PoolError, match="is a symbolic link"):
        read_file(tmp_path / "other", files, "in/file")
    with pytest.raises(PoolError, match="is a symbolic link"):
        tree(tmp_path / "other")
    assert tree(tmp_path / "real") == [tmp_path / "real" / "in" / "file"]


@pytest.mark.parametrize("about", [{}, {"bytes": 1}, {"bytes": True, "sha256": "0" * 64}, {"bytes": 1, "sha256": "x"},
                                   {"bytes": 1.0, "sha256": "0" * 64}, {"bytes": 1, "sha256": None}])  # fmt: skip
def test_a_file_without_a_length_and_a_hash_is_not_among_the_files(about, tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(PoolError, match="'a' is not among the files of"):
        check_files(tmp_path, {"a": about}, ["a"])


def test_every_name_in_a_pool_is_checked(pool):
    from kfdeploy.pool.pool import Pool

    whole = json.loads((pool / "pool.json").read_text(encoding="utf-8"))

    def task(key):
        return lambda m: m["tasks"][0].update({key: "../x"})

    edits = [task(key) for key in ("file", "evidence", "calibration")]
    edits += [
        lambda m: m.update(calibration="../x"),
        lambda m: m.update(blocks=[{"task": "a", "file": "../x", "classes": []}]),
        lambda m: m["files"].update({"../x": {}}),
        lambda m: m.update(name="../x"),
    ]
    for edit in edits:
        manifest = json.loads(json.dumps(whole))
        edit(manifest)
        (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(PoolError, match=r"'\.\./x'"):
            Pool.open(pool)
