import json
from pathlib import Path

import numpy as np
import pytest

from kfdeploy import files
from kfdeploy.errors import OutputError, PoolError
from kfdeploy.manifest import check_files, describe_files, inside, read_manifest


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


def test_an_output_is_whole_or_absent(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="half-way"), files.output_folder(out) as work:
        (work / "a").write_text("1")
        raise RuntimeError("half-way")
    assert list(tmp_path.iterdir()) == []
    with files.output_folder(out) as work:
        (work / "pool.json").write_text('{"kind": "pool"}')
    assert (out / "pool.json").read_text() == '{"kind": "pool"}'
    with pytest.raises(OutputError, match="is already there") as caught, files.output_folder(out):
        pass
    assert "--force" in caught.value.hint
    with files.output_folder(out, force=True) as work:
        (work / "b").write_text("2")
    assert [path.name for path in out.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_forced_output_that_fails_leaves_the_old_one(tmp_path):
    with files.output_folder(tmp_path / "out") as work:
        (work / "pool.json").write_text('{"kind": "pool", "name": "old"}')
    with pytest.raises(RuntimeError), files.output_folder(tmp_path / "out", force=True):
        raise RuntimeError
    assert "old" in (tmp_path / "out" / "pool.json").read_text()


def test_force_does_not_replace_what_is_not_ours(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with (
        pytest.raises(OutputError, match="was not made by kfdeploy"),
        files.output_folder(tmp_path / "mine", force=True),
    ):
        pass
    for place in (Path(), Path("..")):
        with pytest.raises(OutputError, match="has no name of its own"):
            files.check_output(place, force=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"), files.output_folder(tmp_path / "file" / "out"):
        pass
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_file(tmp_path / "file" / "x.json", "{}")
    with pytest.raises(OutputError, match=r"cannot be (written|made)"), files.output_folder(Path("/proc/kfdeploy")):
        pass


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OutputError, match="'.*out' cannot be written: No space left") as caught,
        files.output_folder(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert "free some space" in caught.value.hint
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConnectionError), files.output_folder(tmp_path / "out"):  # not the place's fault
        raise ConnectionError(104, "reset by peer")


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
    path.write_text(json.dumps({"schema": 2, "kind": "pool"}))
    with pytest.raises(PoolError, match="has schema 2, and this version of kfdeploy reads schema 1"):
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


def test_the_name_of_a_manifest_alone_is_no_sign_of_ours(tmp_path):
    from kfdeploy.files import check_output

    for name, text in (("manifest.json", '{"name": "my web app"}'), ("pool.json", "[]"), ("assembly.json", "{"),
                       ("pool.json", '{"kind": "artifact"}')):  # fmt: skip
        site = tmp_path / name
        site.mkdir(exist_ok=True)
        (site / name).write_text(text)
        with pytest.raises(OutputError, match="was not made by kfdeploy"):
            check_output(site, force=True)
    (site / name).write_text('{"kind": "pool"}')
    check_output(site, force=True)


def test_what_is_read_cannot_be_written_too(tmp_path):
    from kfdeploy.files import check_not_read

    (tmp_path / "a" / "pool").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for out in ("a/pool", "a", "link", "link/pool"):
        with pytest.raises(OutputError, match="which is read"):
            check_not_read(tmp_path / out, tmp_path / "a" / "pool")
    check_not_read(tmp_path / "a" / "pool2", tmp_path / "a" / "pool", None)


def test_a_link_stays_a_link_and_the_folder_it_leads_to_is_replaced(tmp_path):
    from kfdeploy.files import output_folder

    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "one").symlink_to(tmp_path / "disk" / "one")
    with output_folder(tmp_path / "one", force=True) as work:
        (work / "x").write_text("new")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "disk" / "one" / "x").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "one"]


def test_of_two_writers_the_second_is_refused_and_an_abandoned_folder_is_taken_over(tmp_path):
    from kfdeploy.files import output_folder

    with output_folder(tmp_path / "out") as work:
        with pytest.raises(OutputError, match="another process is writing to"), output_folder(tmp_path / "out"):
            pass
        (work / "x").write_text("first")
    assert (tmp_path / "out" / "x").read_text() == "first"
    abandoned = tmp_path / "two.partial"
    abandoned.mkdir()
    (abandoned / "torn").write_text("x")
    with output_folder(tmp_path / "two") as work:
        (work / "y").write_text("whole")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["y"]


def test_an_unfinished_training_is_nobody_elses_to_remove(tmp_path):
    from kfdeploy.files import output_folder

    held = tmp_path / "big.partial" / "train" / "checkpoint-12.pt"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"x")
    with pytest.raises(OutputError, match="holds an unfinished training"), output_folder(tmp_path / "big", force=True):
        pass
    assert held.exists()
