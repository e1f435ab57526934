import json
import os
import threading
from pathlib import Path

import pytest

from kfdeploy import outputs, writing
from kfdeploy.errors import OutputError
from kfdeploy.locks import lock
from kfdeploy.manifest import describe_files
from kfdeploy.outputs import check_not_read, check_output, check_place, not_ours, output_folder, sweep
from kfdeploy.writing import fresh


def made(folder, text="old", **more):
    """Write a small pool that is all ours into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "common.onnx").write_text(text)
    about = {"schema": 1, "kind": "pool", "files": describe_files(folder, [folder / "common.onnx"])}
    (folder / "pool.json").write_text(json.dumps(about | more))
    return folder


def test_an_output_is_whole_or_absent(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="half-way"), output_folder(out) as work:
        (work / "a").write_text("1")
        raise RuntimeError("half-way")
    assert list(tmp_path.iterdir()) == []
    with output_folder(out) as work:
        made(work)
    with pytest.raises(OutputError, match="is already there") as caught, output_folder(out):
        pass
    assert "--force" in caught.value.hint
    with output_folder(out, force=True) as work:
        (work / "b").write_text("2")
    assert [path.name for path in out.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_forced_output_that_fails_leaves_the_old_one(tmp_path):
    made(tmp_path / "out")
    with pytest.raises(RuntimeError), output_folder(tmp_path / "out", force=True):
        raise RuntimeError
    assert (tmp_path / "out" / "common.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_where_the_system_cannot_exchange_too(exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(outputs, "exchange", lambda one, other: False)
    made(tmp_path / "out")
    with output_folder(tmp_path / "out", force=True) as work:
        made(work, "new")
    assert (tmp_path / "out" / "common.onnx").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_process_that_died_between_two_renames_is_made_good(tmp_path):
    out = tmp_path / "out"
    made(fresh(out, "replaced"))  # the old one was put aside, and the new one never came
    made(fresh(out, "partial"), "new")
    with pytest.raises(OutputError, match="is already there"), output_folder(out):
        pass
    assert (out / "common.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    made(fresh(out, "replaced"), "older")  # both renames were done, and the old one not removed
    sweep(out)
    assert (out / "common.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sweeping_touches_nothing_that_only_looks_like_ours(tmp_path):
    names = [".out.partial", ".out.0123456789abcdef.partial.txt", "out.0123456789abcdef.partial", ".out.xyz.partial"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.0123456789abcdef.partial").symlink_to(tmp_path / "elsewhere")
    sweep(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, "elsewhere", ".out.0123456789abcdef.partial"]
    )


def test_force_does_not_replace_what_is_not_ours(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match="was not made by kfdeploy"), output_folder(tmp_path / "mine", force=True):
        pass
    for place in (Path(), Path("..")):
        with pytest.raises(OutputError, match="has no name of its own"):
            check_output(place, force=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    for name in ("thesis.tex", "pipe"):
        place = tmp_path / name
        os.mkfifo(place) if name == "pipe" else place.write_text("years")
        with pytest.raises(OutputError, match="and a folder is to be made there"):
            check_output(place, force=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="a link that leads nowhere"):
        check_output(tmp_path / "nowhere", force=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", '{"name": "my web app"}'),
        ("pool.json", "[]"),
        ("assembly.json", "{}"),
        ("pool.json", '{"kind": "artifact", "files": {}}'),
        ("pool.json", '{"kind": "pool"}'),
        ("manifest.json", "[" * 100_000),
    ],
)
def test_the_name_of_a_manifest_alone_is_no_sign_of_ours(name, text, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_text(text)
    with pytest.raises(OutputError, match="was not made by kfdeploy"):
        check_output(tmp_path / "site", force=True)


def test_a_folder_is_ours_by_its_files_and_nothing_of_the_users_is_lost_with_it(tmp_path):
    pool = made(tmp_path / "pool")
    assert not_ours(pool) == ""
    (pool / "train").mkdir()
    (pool / "train" / "timing.csv").write_text("")
    assert not_ours(pool) == ""
    (pool / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt', which kfdeploy did not write, so --force does not"):
        check_output(pool, force=True)
    (pool / "notes.txt").unlink()
    (pool / "common.onnx").write_text("another length")
    with pytest.raises(OutputError, match=r"has a pool\.json that names 'common\.onnx', and that is missing or"):
        check_output(pool, force=True)
    made(pool, files={"../../x": {"bytes": 1}})
    with pytest.raises(OutputError, match=r"names '\.\./\.\./x'"):
        check_output(pool, force=True)


def test_what_the_demo_made_is_its_own(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text("{}")
    (tmp_path / "demo" / "pool").mkdir()
    check_output(tmp_path / "demo", force=True)
    (tmp_path / "demo" / "notes").mkdir()
    with pytest.raises(OutputError, match="holds 'notes', which the demo did not write"):
        check_output(tmp_path / "demo", force=True)


def test_everything_that_the_verbs_make_is_ours(toy):
    for folder in (toy.pool, toy.students / "small"):
        assert not_ours(folder) == ""


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"), output_folder(tmp_path / "file" / "out"):
        pass
    with pytest.raises(OutputError, match=r"cannot be (written|made)"), output_folder(Path("/proc/kfdeploy")):
        pass
    with pytest.raises(OutputError, match="File name too long"), output_folder(tmp_path / ("x" * 300)):
        pass


def test_the_longest_name_that_the_disk_takes_is_taken(tmp_path):
    out = tmp_path / ("ö" * 127)
    for force in (False, True):
        with output_folder(out, force=force) as work:
            made(work)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    writing.write_file(tmp_path / ("y" * 255), "whole")
    assert (tmp_path / ("y" * 255)).read_text() == "whole"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OutputError, match="'.*out' cannot be written: No space left") as caught,
        output_folder(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert "free some space" in caught.value.hint
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConnectionError), output_folder(tmp_path / "out"):  # not the place's fault
        raise ConnectionError(104, "reset by peer")


def test_what_is_read_cannot_be_written_too(tmp_path):
    (tmp_path / "a" / "pool").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for out in ("a/pool", "a", "link", "link/pool"):
        with pytest.raises(OutputError, match="which is read"):
            check_not_read(tmp_path / out, tmp_path / "a" / "pool")
    check_not_read(tmp_path / "a" / "pool2", tmp_path / "a" / "pool", None)


def test_a_link_stays_a_link_and_the_folder_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "one").symlink_to(tmp_path / "disk" / "one")
    with output_folder(tmp_path / "one", force=True) as work:
        (work / "x").write_text("new")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "disk" / "one" / "x").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "one"]


def test_of_two_writers_the_second_is_told_and_may_wait(tmp_path):
    out = tmp_path / "out"
    with output_folder(out) as work:
        message = rf"another kfdeploy writes to '.*out' \(process {os.getpid()}\)"
        with pytest.raises(OutputError, match=message) as told, output_folder(out):
            pass
        assert "--wait" in told.value.hint
        made(work)
        waited = []

        def second():
            with output_folder(out, force=True, wait=True) as later:
                waited.append((out / "common.onnx").read_text())
                made(later, "second")

        thread = threading.Thread(target=second)
        thread.start()
    thread.join(timeout=20)
    assert waited == ["old"]
    assert (out / "common.onnx").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_unfinished_training_is_nobody_elses_to_remove(tmp_path):
    held = tmp_path / "big.partial" / "train" / "checkpoint-12.pt"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"x")
    with output_folder(tmp_path / "big") as work:
        made(work)
    assert held.exists()


def test_a_file_in_the_place_of_another_kind_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    for name, message in (("folder", "is a folder"), ("pipe", "is a device or a pipe"), ("file", "is already there")):
        with pytest.raises(OutputError, match=message):
            check_place(tmp_path / name, force=False)
    check_place(tmp_path / "file", force=True)
    check_place(tmp_path / "new", force=False)


def test_the_lock_is_gone_when_it_is_given_back(tmp_path):
    with lock(tmp_path / "x"):
        assert (tmp_path / ".x.lock").read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []
