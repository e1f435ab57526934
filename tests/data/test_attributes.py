"""attributes.csv: what it says, and each way in which it is refused, by its name and line."""

import numpy as np
import pytest

from kfdeploy.data import attributes
from kfdeploy.data.attributes import read_attributes
from kfdeploy.data.fields import Asked
from kfdeploy.errors import DataError


def read(tmp_path, text, asked=None, files=True):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "attributes.csv").write_bytes(data)
    return read_attributes(tmp_path / "attributes.csv", asked or Asked(), files=files)


def values(table, name):
    texts = [*table.columns[name].known, ""]
    return [texts[code] for code in table.columns[name].codes(table.rows)]


def test_a_table_is_read_as_people_write_them(tmp_path):
    text = '\ufefffile, shape ,note\r\n"a, b.png",square,"says ""no"""\r\n\r\nc.png,, x \r\nd.png,élan,\r\n'
    table, names = read(tmp_path, text)
    assert names == {"a, b.png": 2, "c.png": 4, "d.png": 5}
    assert (table.rows, values(table, "shape")) == (3, ["square", "", "élan"])
    assert values(table, "note") == ['says "no"', "x", ""]
    assert table.where(4) == f"'{tmp_path / 'attributes.csv'}', line 4"


def test_fields_that_nobody_asks_for_are_not_read(tmp_path):
    text = "file,shape,id,bank/x\na.png,square,\x01,1\n"
    table, _ = read(tmp_path, text, Asked(ignore=("id", "bank/x", "gone")))
    assert (list(table.columns), table.ignored) == (["shape"], ("id", "bank/x"))
    assert list(read(tmp_path, text, Asked(only=("shape",)))[0].columns) == ["shape"]


def test_without_names_rows_are_in_the_order_of_the_images(tmp_path):
    table, names = read(tmp_path, "shape\nsquare\nstar\n", files=False)
    assert (values(table, "shape"), names) == (["square", "star"], {})
    assert list(read(tmp_path, "file,shape\na,square\na,star\n", files=False)[0].columns) == ["shape"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name,shape\n", r"line 1: there is no column 'file', .*'name', 'shape'", "call the column"),
        ("File,shape\n", "there is no column 'file'", "did you mean 'File'"),
        ("file;shape\na.png;square\n", "there is no column 'file'", "separate the columns with commas"),
        ("", "line 1: there is no column 'file'", ""),
        ("file,shape,\n", "line 1: column 3 has no name", ""),
        ("file,shape,shape\n", "line 1: two columns are called 'shape'", ""),
        ("file,shape\na.png,x\na.png,y\n", r"line 3: 'a.png' has a row already, in line 2", "keep one"),
        ("file,shape\n,x\n", "line 2 names no image: its 'file' is empty", ""),
        ("file,shape\na.png,x\nb.png\n", "line 3 has 1 values, and the header 2", ""),
        ("file,shape\na.png,x,y\n", "line 2 has 3 values, and the header 2", ""),
        ("file,shape\na.png,x\x00y\n", "line 2: the value of 'shape' has a control character", ""),
        (f"file,shape\na.png,{'x' * 1001}\n", "line 2: the value of 'shape' has 1,001 letters", ""),
        ('file,shape\na.png,"x\n', r"line 2: unexpected end of data", "save it as CSV"),
        (b"file,shape\na.png,x\n" + "b.png,élan\n".encode("latin1"), "line 3 is no text in UTF-8", "save it"),
        ("file,shape\n".encode("utf-16"), "line 1 is no text in UTF-8", "save it as CSV in UTF-8"),
        ("file," + ",".join(f"f{i}" for i in range(1000)), "has 1,001 columns, and at most 1,000", ""),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_refused_by_line(tmp_path, text, message, hint):
    with pytest.raises(DataError, match=rf"attributes\.csv'[^\n]*{message}") as caught:
        read(tmp_path, text)
    assert hint in caught.value.hint


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "_MOST", 100)
    with pytest.raises(DataError, match="has 211 bytes, and at most 100 are read"):
        read(tmp_path, "file,shape\n" + "x" * 200)
    monkeypatch.setattr(attributes, "_MOST_LINE", 50)
    with pytest.raises(DataError, match="line 2 goes on beyond what is read"):
        read(tmp_path, "file,shape\n" + "x" * 60)
    monkeypatch.setattr(attributes, "_MOST_ROWS", 2)
    with pytest.raises(DataError, match="has more than the 2 rows that are read"):
        read(tmp_path, "file,shape\n" + "".join(f"{i},x\n" for i in range(3)))


def test_a_file_that_is_not_there_or_no_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no '.*attributes\.csv'"):
        read_attributes(tmp_path / "attributes.csv", Asked(), files=True)
    (tmp_path / "attributes.csv").mkdir()
    with pytest.raises(DataError, match=r"attributes\.csv' cannot be read: Is a directory"):
        read_attributes(tmp_path / "attributes.csv", Asked(), files=True)


def test_a_column_of_identifiers_is_not_kept(tmp_path):
    table, _ = read(tmp_path, "file,id,shape\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(5000)))
    assert table.columns["id"].many
    assert not table.columns["id"].known
    assert np.bincount(table.columns["shape"].codes(5000)).tolist() == [2500, 2500]
