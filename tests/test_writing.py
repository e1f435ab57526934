import errno
import os
import stat

import pytest

from kfdeploy import writing
from kfdeploy.errors import OutputError
from kfdeploy.writing import exchange, followed, link, make_folder, replacing, require_writable, sync_tree, write_file


def test_a_file_is_whole_or_as_it_was(tmp_path):
    place = tmp_path / "new" / "deep" / "x.json"
    write_file(place, "one")
    with pytest.raises(RuntimeError), replacing(place) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert place.read_text() == "one"
    write_file(place, b"two", durable=False)
    assert place.read_text() == "two"
    assert [path.name for path in place.parent.iterdir()] == ["x.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    real = os.fsync, os.replace

    def fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real[0](descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda path, target: (done.append("name"), real[1](path, target)) and target
    )
    write_file(tmp_path / "x", "durable")
    assert done == ["file", "name", "folder"]
    done.clear()
    write_file(tmp_path / "log", "cheap", durable=False)
    assert done == ["name"]


def test_names_beside_cannot_be_foreseen_and_links_there_are_not_followed(tmp_path, monkeypatch):
    seen = {writing.fresh(tmp_path / "x", "partial") for _ in range(50)}
    assert len(seen) == 50
    monkeypatch.setattr(writing.secrets, "token_hex", lambda n: "0" * 16)
    (tmp_path / "precious").write_text("important")
    (tmp_path / f".x.{'0' * 16}.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="cannot be written: File exists"):
        write_file(tmp_path / "x", "evil")
    assert (tmp_path / "precious").read_text() == "important"


def test_a_link_is_followed_and_its_target_replaced_in_its_own_place(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("old")
    (tmp_path / "x").symlink_to(tmp_path / "real" / "x")
    write_file(tmp_path / "x", "new")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "real" / "x").read_text() == "new"
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match=r"leads in a circle|cannot be written"):
        write_file(tmp_path / "a", "x")
    assert followed(tmp_path / "real") == tmp_path / "real"


def test_a_new_file_is_nobody_elses(tmp_path, monkeypatch):
    with replacing(tmp_path / "key", new=True, mode=0o600) as stream:
        stream.write(b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError), replacing(tmp_path / "key", new=True) as stream:
        stream.write(b"other")
    assert (tmp_path / "key").read_bytes() == b"secret"

    def no_links(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with replacing(tmp_path / "key2", new=True) as stream:
        stream.write(b"secret")
    with pytest.raises(FileExistsError), replacing(tmp_path / "key2", new=True) as stream:
        stream.write(b"other")
    assert (tmp_path / "key2").read_bytes() == b"secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key2"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is not a file"):
        write_file(tmp_path / "pipe", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_file(tmp_path / "file" / "x.json", "{}")


def test_two_folders_change_places_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot")
    assert (tmp_path / "a" / "x").read_text() == "b"
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "gone")


def test_links_inside_what_we_make_are_not_followed(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "out").symlink_to("/proc/version")
    sync_tree(tmp_path / "work")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "work" / "x").write_text("1")
    link(tmp_path / "work" / "x", tmp_path / "a" / "x")
    assert (tmp_path / "a" / "x").stat().st_ino == (tmp_path / "work" / "x").stat().st_ino


def test_a_place_that_cannot_be_written_is_found_out(tmp_path):
    require_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="cannot be written"):
        require_writable(tmp_path / "gone")
