"""Places of this machine: left out of what ships, and found again here."""

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context

import pytest

from kfdeploy.places import alternatives, found_data, found_recipe, is_private, origin_of, shipped_data, shipped_recipe

IMAGES = "ab" * 32


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    "text", ["/home/ada/data", "../ada/data", "~ada/data", "C:\\\\ada", "\\\\\\\\host\\\\x", "a/../../b"]
)
def test_paths_that_tell_of_a_machine(text):
    assert is_private(text)
    assert shipped_data({"source": "folder", "root": text})["root"] == ""


@pytest.mark.parametrize("text", ["", "data", "data/pets", "digits"])
def test_paths_that_do_not(text):
    assert not is_private(text)
    assert shipped_data({"source": "folder", "root": text}) == {"source": "folder", "root": text}


def test_images_are_found_again_by_their_hash(tmp_path, state):
    place = tmp_path / "ada" / "data"
    shipped = shipped_data({"source": "folder", "root": str(place), "test": 0.1}, IMAGES)
    assert shipped == {"source": "folder", "root": "", "test": 0.1, "images": IMAGES}
    assert found_data(shipped)["root"] == ""  # it is not there yet
    place.mkdir(parents=True)
    assert found_data(shipped)["root"] == str(place)
    assert found_data({"source": "folder", "root": str(place)})["root"] == str(place)  # as 0.1.0 wrote it
    newer = tmp_path / "moved"
    place.rename(newer)
    shipped_data({"source": "folder", "root": str(newer)}, IMAGES)
    assert found_data(shipped)["root"] == str(newer)
    for each in (state / "places" / IMAGES).iterdir():
        each.write_text("[]", encoding="utf-8")
    assert found_data(shipped)["root"] == ""


def test_a_recipe_keeps_the_names_of_files_and_finds_them_again(tmp_path):
    for name in ("net.pt", "names.txt", "student.pt"):
        (tmp_path / name).touch()
    recipe = {
        "data": {"source": "folder", "root": str(tmp_path), "names": str(tmp_path / "names.txt")},
        "teacher": {"source": f"file:{tmp_path}/net.pt", "weights": "", "classes": ["a"], "net": None},
        "run": {"replay": str(tmp_path / "views")},
        "students": [{"name": "s", "net": {"weights": str(tmp_path / "student.pt")}}, {"name": "t", "net": {}}],
    }
    before = json.dumps(recipe)
    shipped = shipped_recipe(recipe, IMAGES)
    assert json.dumps(recipe) == before
    assert str(tmp_path) not in json.dumps(shipped)
    assert shipped["teacher"]["source"] == "file:net.pt"
    found = found_recipe(shipped, IMAGES)
    assert found == recipe | {"run": {"replay": ""}}
    assert found_recipe(shipped, "") == shipped


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path, state):
    state.write_text("a file", encoding="utf-8")
    shipped = shipped_data({"source": "folder", "root": str(tmp_path)}, IMAGES)
    assert found_data(shipped)["root"] == ""


def _tell(folder):
    for number in range(60):
        shipped_data({"source": "folder", "root": str(folder / str(number))}, IMAGES)


def test_processes_that_remember_at_once_lose_nothing_of_each_other(tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        for number in range(60):
            (folder / str(number)).mkdir(parents=True)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(_tell, folders))
    known = {each["root"] for each in alternatives({"source": "folder", "root": "", "images": IMAGES})}
    assert known == {str(folder / str(number)) for folder in folders for number in range(60)}


def test_of_very_many_places_the_first_and_the_last_are_kept_and_those_that_are_gone_forgotten(tmp_path, state):
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        shipped_data({"source": "folder", "root": str(tmp_path / str(number))}, IMAGES)
    known = [each["root"] for each in alternatives({"source": "folder", "root": "", "images": IMAGES})]
    assert len(known) == 256
    assert {str(tmp_path / "0"), str(tmp_path / "299")} <= set(known)
    for number in range(1, 200):
        with suppress(FileNotFoundError):
            (tmp_path / str(number)).rmdir()
    (tmp_path / "last").mkdir()
    shipped_data({"source": "folder", "root": str(tmp_path / "last")}, IMAGES)
    assert len(list((state / "places" / IMAGES).iterdir())) == 102


def test_how_many_images_a_recipe_asks_for_is_not_taken_for_their_hash():
    data = {"source": "dsprites", "root": "", "images": 200}
    assert origin_of(data, IMAGES) == {"source": "dsprites", "root": "", "count": 200, "images": IMAGES}
    assert origin_of({"source": "folder", "images": IMAGES}) == {"source": "folder", "images": IMAGES}
    assert shipped_data(data, IMAGES) == {"source": "dsprites", "root": "", "count": 200}
    assert shipped_data(origin_of(data, IMAGES)) == {"source": "dsprites", "root": "", "count": 200}
