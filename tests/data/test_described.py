"""A described folder: images, and attributes.csv beside them."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from toys import LIT, SHAPES, rows_of, write_described

from kfdeploy.data.content import Record
from kfdeploy.data.fields import Asked
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec

RGB8 = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
COLUMNS = ("shape: disc", "shape: square", "shape: star", "size: 2", "size: 10", "lit: no", "lit: yes")


def load(root, split="train", test=0.0, names="", **asked):
    return load_split("folder", str(root), split, RGB8, test=test, names=names, asked=Asked(**asked))


@pytest.fixture
def root(tmp_path):
    write_described(tmp_path, "train", 30)
    write_described(tmp_path, "test", 12)
    return tmp_path


def test_each_column_is_a_field_and_what_is_empty_is_unknown(root):
    train = load(root)
    assert train.classes == COLUMNS
    assert train.field_names == ("shape", "size", "lit")
    assert train.labels.shape == (30, 3)
    for i in range(30):
        assert train.texts_of("shape")[i] == ("" if i % 5 == 4 else f"shape: {SHAPES[i % 3]}")
        assert train.texts_of("lit")[i] == ("" if i % 7 == 6 else f"lit: {LIT[i // 2 % 2]}")
    assert train.names()[:2] == ("000.png", "001.png")
    assert train.images is None
    assert np.array_equal(train.in_memory().load([3, 5]), train.load([3, 5]))
    assert train.texts()[4] == "lit: no; ; size: 2"


def test_the_order_of_the_rows_does_not_matter(root):
    before = load(root)
    write_described(root, "train", 30, rows_of(30)[::-1])
    after = load(root)
    assert np.array_equal(before.labels, after.labels)
    assert before.names() == after.names()


def test_an_order_can_be_asked_for_and_fields_left_out(root):
    found = load(root, orders={"shape": ("star", "disc", "square")}, ignore=("lit",))
    assert found.classes == ("shape: star", "shape: disc", "shape: square", *COLUMNS[3:5])
    assert found.ignored == ("lit",)
    assert load(root, only=("lit",)).classes == COLUMNS[5:]
    assert load(root, only=("lit",), orders={"shape": ("star", "disc", "square")}).classes == COLUMNS[5:]
    with pytest.raises(DataError, match="has no field 'shap'"):
        load(root, orders={"shap": ()})
    with pytest.raises(DataError, match="has no field that is asked for"):
        load(root, ignore=("shape", "size", "lit"))


def test_the_classes_of_test_are_those_of_train(root):
    write_described(root, "test", 4, ["000.png,star,10,no", "001.png,star,10,no", "002.png,,10,no", "003.png,,,"])
    test = load(root, "test")
    assert test.classes == COLUMNS
    assert test.labels.tolist() == [[2, 4, 5], [2, 4, 5], [-1, 4, 5], [-1, -1, -1]]
    write_described(root, "test", 1, ["000.png,hexagon,10,no"])
    with pytest.raises(DataError, match=r"test/attributes\.csv', line 2: 'shape' is 'hexagon', and no image of the tr"):
        load(root, "test")
    assert load(root, "test", ignore=("shape",)).classes == COLUMNS[3:]
    assert load(root, "test", again=True).texts() == ("lit: no; shape: hexagon; size: 10",)
    write_described(root, "test", 1, ["000.png,star"], "file,shape")
    with pytest.raises(DataError, match=r"test/attributes\.csv' has no field 'size', and the train split has"):
        load(root, "test")


def test_images_and_rows_that_lack_each_other_are_refused_or_left_out(root):
    write_described(root, "train", 30, rows_of(28))
    with pytest.raises(
        DataError, match=r"the image '.*028\.png' has no row in .*attributes\.csv' \(nor 1 oth"
    ) as caught:
        load(root)
    assert "data.partial = true" in caught.value.hint
    write_described(root, "train", 30, [*rows_of(30), "999.png,star,2,no"])
    with pytest.raises(DataError, match=r"attributes\.csv', line 32: there is no image '999\.png' in"):
        load(root)
    write_described(root, "train", 30, ["images/000.png,star,2,no"])
    with pytest.raises(DataError, match=r"line 2: there is no image 'images/000\.png'") as caught:
        load(root)
    assert caught.value.hint == "names are those below 'images': '000.png'"
    write_described(root, "train", 30, ["000.jpg,star,2,no"])
    with pytest.raises(DataError, match=r"line 2: there is no image '000\.jpg'") as caught:
        load(root)
    assert caught.value.hint == "did you mean '000.png'?"
    write_described(root, "train", 30, [*rows_of(29)[1:], "999.png,star,2,no"])
    found = load(root, partial=True)
    assert (len(found), found.names()[0]) == (28, "001.png")
    assert found.note.startswith("2 images without a row and 1 rows without an image were left out of '")
    assert len(load(root, again=True)) == 28
    write_described(root, "train", 30, [])
    with pytest.raises(DataError, match=r"no image in '.*images' has a row in"):
        load(root, partial=True)


def test_columns_that_nobody_has_a_task_for_stop_nothing(root):
    header = "file,shape,id,flat,image"
    rows = [f"{i:03}.png,{SHAPES[i % 3]},{i},1,x" for i in range(30)]
    write_described(root, "train", 30, rows, header)
    for field, message in (
        ("flat", "one value, '1'"),
        ("image", "the field 'image' has a name that is taken inside a graph"),
    ):
        with pytest.raises(DataError, match=message):
            load(root, only=("shape", field))
    with pytest.raises(DataError, match="has no value|one value"):
        load(root)
    assert load(root, only=("shape",)).classes == COLUMNS[:3]
    assert load(root, ignore=("id", "flat", "image")).ignored == ("id", "flat", "image")
    assert "image" not in load(root, again=True).field_names


def test_a_folder_of_maps_is_refused_only_where_it_is_asked_for(root):
    (root / "train" / "seg").mkdir()
    assert load(root).classes == COLUMNS
    with pytest.raises(DataError, match=r"'.*train/seg' is no list of classes, and maps of labels are not there yet"):
        load(root, orders={"seg": ()})


def test_a_lone_class_is_as_class_folders_are(root):
    rows = [f"{i:03}.png,{('', 'cat', 'dog')[i % 3]}" for i in range(30)]
    write_described(root, "train", 30, rows, "file,class")
    found = load(root)
    assert (found.classes, found.fields, found.order) == (("cat", "dog"), (), "names")
    assert found.labels.tolist() == [0, 1] * 10
    assert found.rows.tolist() == list(range(20))
    assert found.note.startswith("10 images without a class were left out")
    assert load(root, names={"cat": "kitten"}).classes == ("kitten", "dog")


def test_names_are_for_the_field_class_alone(root):
    rows = [f"{i:03}.png,{'ab'[i % 2]},{'ab'[i // 2 % 2]}" for i in range(30)]
    write_described(root, "train", 30, rows, "file,class,shape")
    found = load(root, names={"a": "ant"})
    assert found.classes == ("ant", "b", "shape: a", "shape: b")
    assert found.called({}).classes == found.classes
    with pytest.raises(DataError, match="data.names has 'shape: a', which the data do not have"):
        found.called({"shape: a": "x"}, all_there=True)


def test_a_share_of_train_is_for_testing_by_content(root):
    write_described(root, "train", 60)
    for path in sorted((root / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "test").rmdir()
    train, test = load(root, "train", 0.2), load(root, "test", 0.2)
    assert len(train) + len(test) == 60
    assert 3 <= len(test) <= 24
    assert not set(train.names()) & set(test.names())
    assert train.classes == test.classes == COLUMNS
    few = load(root, "test", 0.2, only=("size",), again=True)  # whatever is read of the table
    assert few.names() == test.names()
    rare = test.names()[0]
    rows = [row.replace(",2,", ",7,") if row.startswith(rare) else row for row in rows_of(60)]
    rows = [row.replace(",10,", ",7,") if row.startswith(rare) else row for row in rows]
    write_described(root, "train", 60, rows)
    with pytest.raises(DataError, match="data.test takes all 1 images of 'size: 7' for testing") as caught:
        load(root, "train", 0.2)
    assert load(root, "train", 0.2, ignore=("size: 7",)).classes[3:6] == ("size: 2", "size: 7", "size: 10")
    assert "data.ignore = ['size: 7']" in caught.value.hint
    write_described(root / "few", "train", 2, ["000.png,disc,2,no", "001.png,star,10,yes"])
    with pytest.raises(DataError, match="has 2 images: too few to train on, to choose on and to test on"):
        load(root / "few", "train", 0.2)


def test_both_splits_are_described_or_neither(root):
    (root / "test" / "attributes.csv").unlink()
    with pytest.raises(
        DataError, match=r"'.*train' is a described folder, and '.*test' is none; a described folder is"
    ):
        load(root, "test")


def test_names_may_be_composed_or_not(root):
    (root / "train" / "images" / "000.png").rename(root / "train" / "images" / unicodedata.normalize("NFD", "é.png"))
    write_described(root, "test", 1)
    text = (root / "train" / "attributes.csv").read_text(encoding="utf-8").replace("000.png", "é.png")
    (root / "train" / "attributes.csv").write_text(text, encoding="utf-8")
    assert len(load(root)) == 30
    (root / "train" / "images" / "001.png").rename(root / "train" / "images" / unicodedata.normalize("NFC", "é.png"))
    with pytest.raises(DataError, match="two images in .* are called 'é.png'"):
        load(root)


def test_a_folder_without_images(root):
    for path in (root / "train" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="images' has no images"):
        load(root)


def test_a_record_tells_what_was_known_of_each_image(root):
    train = load(root).identified()
    record = train.record([1, 2])
    same = Record.of(record.arrays())
    assert np.array_equal(same.labels, train.labels)
    assert not record.change(same)
    other = train.labels.copy()
    other[0, 0] = -1
    assert "1 of 30 are new, such as '000.png'" in record.change(replace(record, labels=other))
