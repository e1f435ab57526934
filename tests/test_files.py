import json

import numpy as np
import pytest

from kfdeploy import files
from kfdeploy.errors import PoolError
from kfdeploy.manifest import check_files, describe_files, read_manifest
from kfdeploy.names import inside


@pytest.mark.parametrize(
    "name", ["cat", "sea horse", "a/b", "..", ".hidden", "shared", "élan", "100%", "a\\b", "犬" * 60]
)
def test_any_task_name_makes_one_safe_file_name(name, tmp_path):
    made = files.file_name(name)
    assert made not in ("", ".", "..", "shared")
    assert "/" not in made
    assert "\\" not in made
    (tmp_path / f"{made}.safetensors").touch()


def test_file_names_do_not_meet():
    names = ["shared", "%73hared", "a b", "a%20b", ".x", "%2Ex", "犬" * 60, "犬" * 61]
    assert len({files.file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "..", ".", "C:x", "c:/x"])
def test_a_name_that_leads_outside_is_refused(name, tmp_path):
    with pytest.raises(PoolError, match="names a file outside it"):
        inside(tmp_path, name)


def test_manifests_are_checked(tmp_path):
    path = tmp_path / "pool.json"
    with pytest.raises(PoolError, match=r"there is no pool at .*'pool\.json' is missing"):
        read_manifest(path, "pool", "hint")
    path.write_text("{")
    with pytest.raises(PoolError, match="cannot be read"):
        read_manifest(path, "pool", "hint")
    path.write_text("[]")
    with pytest.raises(PoolError, match="has schema 'list'"):
        read_manifest(path, "pool", "hint")
    path.write_text(json.dumps({"schema": 3, "kind": "pool"}))
    with pytest.raises(PoolError, match="has schema 3, and this version of kfdeploy reads schemas 1 to 2"):
        read_manifest(path, "pool", "hint")
    path.write_text(json.dumps({"schema": 1, "kind": "artifact"}))
    with pytest.raises(PoolError, match="describes a 'artifact'"):
        read_manifest(path, "pool", "hint")


def test_tensors_are_the_same_bytes_each_time(tmp_path):
    arrays = {name: np.full((3, 2), i, dtype=np.float32) for i, name in enumerate("edcba")}
    about = {"z": 1, "a": [1, 2], "m": "x"}
    files.save_tensors(tmp_path / "1", arrays, about)
    files.save_tensors(tmp_path / "2", dict(reversed(arrays.items())), dict(reversed(about.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert (tmp_path / "1").stat().st_mode & 0o400
    loaded = files.load_tensors(tmp_path / "1")
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    (tmp_path / "1").write_bytes(b"nothing")
    with pytest.raises(PoolError, match="not a readable safetensors file"):
        files.load_tensors(tmp_path / "1")


def test_files_are_checked_against_their_manifest(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    listed = describe_files(tmp_path, [tmp_path / "a"])
    check_files(tmp_path, listed, ["a"])
    with pytest.raises(PoolError, match="not among the files"):
        check_files(tmp_path, listed, ["b"])
    (tmp_path / "a").write_bytes(b"1234")
    with pytest.raises(PoolError, match="has 4 bytes, its manifest says 5"):
        check_files(tmp_path, listed, ["a"])
    (tmp_path / "a").write_bytes(b"12346")
    with pytest.raises(PoolError, match="was altered"):
        check_files(tmp_path, listed, ["a"])
    (tmp_path / "a").unlink()
    with pytest.raises(PoolError, match="is missing"):
        check_files(tmp_path, listed, ["a"])


def test_lists_of_numbers_take_one_line():
    text = files.dump_line_json({"a": [1.5, -2e-5, 3], "b": ["x", "y"], "c": {"d": [[1, 2], [3]]}})
    assert '"a": [1.5, -2e-05, 3]' in text
    assert json.loads(text) == {"a": [1.5, -2e-5, 3], "b": ["x", "y"], "c": {"d": [[1, 2], [3]]}}
