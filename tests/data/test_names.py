"""What classes are called: ImageNet's thousand, lists in files, readable names for folders, and which column is meant."""

import pytest

from kfdeploy.data.names import class_list, column_of, imagenet, readable_names
from kfdeploy.errors import DataError


def test_imagenet_is_shipped_in_a_classifiers_order():
    known = imagenet()
    assert len(known) == 1000
    assert known[0][:2] == ("n01440764", "tench")
    assert known[281][1] == "tabby"
    assert known[999][1] == "toilet tissue"
    torchvision = pytest.importorskip("torchvision.models._meta")
    alike = sum(column_of(name, known) == i for i, name in enumerate(torchvision._IMAGENET_CATEGORIES))
    assert alike > 980  # it has a few spellings of its own


def test_a_class_is_found_by_id_by_name_and_by_how_it_is_written():
    known = imagenet()
    assert column_of("n02123045", known) == 281
    assert column_of("tabby", known) == column_of("Tabby", known) == column_of("tabby_cat", known) == 281
    assert column_of("great_white-shark", known) == 2
    assert column_of("crane", known) is None  # a bird and a machine
    assert column_of("teacher", known) is None


def test_a_list_in_a_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeff# mine\nant\n\nn1\tbee, honey bee\n".encode())
    assert class_list(str(path)) == (("ant",), ("n1", "bee", "honey bee"))
    for content, message in ((b"\n", "names no class"), (b"\xff\xfe\x00", "is no text in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            class_list(str(path))
    with pytest.raises(DataError, match="there is no list of classes 'imagnet'") as caught:
        class_list("imagnet")
    assert "did you mean 'imagenet'?" in caught.value.hint


def test_readable_names_for_folders():
    folders = ("n01440764", "n02012849", "n03126707", "mine")
    assert readable_names("imagenet", folders) == ("tench", "crane (n02012849)", "crane (n03126707)", "mine")
    assert readable_names({"n01440764": "Schleie"}, folders)[0] == "Schleie"
    assert readable_names({}, folders) == folders
    assert readable_names({"elsewhere": "tench"}, folders) == folders  # another folder than the recipe's
    for names, message in (
        ({"n0144076": "tench"}, "data.names has 'n0144076', which the data do not have"),
        ({"n01440764": "mine"}, "gives 'n01440764' and 'mine' one name, 'mine'"),
        ({"mine": " "}, "an empty name"),
    ):
        with pytest.raises(DataError, match=message):
            readable_names(names, folders, all_there=True)
