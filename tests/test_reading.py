"""The loaders: whole files are read as they are, and of others the reason is told."""

import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest
from mutants import npy

from kfdeploy.errors import DataError, PoolError
from kfdeploy.files import load_tensors, parse_tensors, save_tensors
from kfdeploy.reading import (
    MOST_DEPTH,
    ReadingError,
    check_archive,
    check_tensors,
    header_of,
    json_of,
    open_regular,
    parse_json,
    read_arrays,
    read_named,
    read_regular,
    tensors_of,
    toml_of,
)


def test_a_file_is_read_up_to_what_it_may_have(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(path) == read_regular(path, 10) == b"0123456789"
    with pytest.raises(OSError, match="more than the 9 bytes") as caught:
        read_regular(path, 9)
    assert caught.value.errno == errno.EFBIG
    path.write_bytes(b"")
    assert read_regular(path, 0) == b""


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place, why in ((tmp_path / "pipe", "it is a pipe"), ("/dev/zero", "it is a device"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=why):
            read_regular(place)
    for place in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="no file can be called that"):
            open_regular(place)
    with pytest.raises(OSError, match="File name too long"):
        open_regular("x" * 300)


def test_a_sparse_file_of_terabytes_is_not_begun(tmp_path):
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match="more than the 1,000 bytes"):
        read_named(tmp_path / "huge", "", "", error=DataError, most=1000)
    with pytest.raises(PoolError, match="there is none"):
        read_named(tmp_path / "gone", "there is none", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('{"a": NaN}', "has the number NaN"),
        ('{"a": 1e999}', "has the number inf"),
        ('{"a": 123456789012345678901}', "a whole number of 67 bits"),
        ("1" * 5000, "digits"),
        ("[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2), f"nested more than {MOST_DEPTH} deep"),
        ("[" * 100_000, f"nested more than {MOST_DEPTH} deep"),
        ('"\\ud800"', "half a character"),
        ('{"\\u0000": 1}', "half a character or a NUL"),
        ("[" + "0," * 3_000_000 + "0]", "more than 2,000,000 values"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("\ud800", "can't decode"),
    ],
)
def test_json_has_limits(text, why):
    with pytest.raises(ReadingError, match=why):
        json_of(text)
    with pytest.raises(PoolError, match=f"^'here' cannot be read: .*{why}"):
        parse_json(text.encode("utf-8", "surrogatepass"), "here")


def test_json_that_is_meant_is_read():
    value = {"a": [1, 2.5, None, True], "é": {"b": "\\u0000 \\ud83d"}, "smile": "\N{GRINNING FACE}", "big": 2**63 - 1}
    assert json_of(json.dumps(value)) == json_of(json.dumps(value, ensure_ascii=False).encode()) == value
    assert json_of(b"\xef\xbb\xbf[1]") == [1]
    assert str(json_of('{"a": NaN, "b": -Infinity}', constants=True)) == "{'a': nan, 'b': -inf}"


def test_toml_has_limits():
    assert toml_of(b"\xef\xbb\xbfa = 1\n[b]\nc = [1.5]") == {"a": 1, "b": {"c": [1.5]}}
    for text, why in (("a = " + "[" * 3000, "deep|nested"), (".".join("a" * 200) + " = 1", "deep"), (".".join("a" * 30_000) + " = 1", "29,999 dots"), ("a = nan", "nan"),
                      ("a = " + "9" * 30, "bits"), ("a = 1\na = 2", "overwrite"), ("=", "Invalid")):  # fmt: skip
        with pytest.raises(ReadingError, match=why):
            toml_of(text.encode())


def tensors(entries, rest=b"", **more):
    text = json.dumps({**entries, **more} if more else entries).encode()
    return len(text).to_bytes(8, "little") + text + rest


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int64),
              "c": np.array(7, np.uint8), "d": np.array([1.5], np.float16), "e": np.array([True, False])}  # fmt: skip
    save_tensors(tmp_path / "x", arrays, {"kind": "evidence"})
    found = load_tensors(tmp_path / "x")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    found["a"][0, 0] = 5  # they are the caller's
    check_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no header"),
        (b"\xff" * 8 + b"{}", "its header would have"),
        (tensors([]), "its header is a list"),
        (tensors({"a": 1}), "does not say what 'a' is"),
        (tensors({"a": entry("F33")}, b"0" * 8), "of the type 'F33'"),
        (tensors({"a": entry(shape=(2**40, 2**40))}, b"0" * 8), "and 8 bytes"),
        (tensors({"a": entry(shape=(-2,))}, b"0" * 8), "has the shape"),
        (tensors({"a": entry(shape=(True, 2))}, b"0" * 8), "has the shape"),
        (tensors({"a": entry(offsets=(8, 0))}, b"0" * 8), "has the shape"),
        (tensors({"a": entry(offsets=(4, 12))}, b"0" * 12), "begin at 4, where 0 is next"),
        (tensors({"a": entry(), "b": entry()}, b"0" * 8), "begin at 0, where 8 is next"),
        (tensors({"a": entry()}, b"0" * 7), "have 8 bytes, and 7 are there"),
        (tensors({"a": entry()}, b"0" * 9), "have 8 bytes, and 9 are there"),
        (tensors({"a": entry()}, b"0" * 8, __metadata__={"k": 1}), "no table of texts"),
        (tensors({"a": entry(shape=(1,) * 20 + (2,))}, b"0" * 8), "has the shape"),
    ],
)
def test_headers_that_do_not_fit_are_refused(data, why):
    with pytest.raises(ReadingError, match=why):
        tensors_of(data)
    with pytest.raises(PoolError, match=f"^'here' is not a readable safetensors file: .*{why}"):
        parse_tensors(data, "here")


def test_what_is_cut_short_is_told_apart():
    whole = tensors({"a": entry()}, b"0" * 8)
    for length in (0, 9, len(whole) - 1):
        with pytest.raises(ReadingError) as caught:
            header_of(whole[:length], length)
        assert caught.value.short


def test_peoples_checkpoints_may_hold_more_kinds_than_ours(tmp_path):
    (tmp_path / "x").write_bytes(tensors({"a": entry("BF16", (4,))}, b"0" * 8))
    check_tensors(tmp_path / "x")
    with pytest.raises(PoolError, match="of the type 'BF16'"):
        load_tensors(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\xff" * 8)
    with pytest.raises(ReadingError):
        check_tensors(tmp_path / "x")


def packed(path, members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_npz_files_have_a_limit_and_no_objects(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(3), b=np.ones((2, 2), np.float32))
    found = read_arrays(path, ("a", "b"), 1000)
    np.testing.assert_array_equal(found["a"], np.arange(3))
    np.testing.assert_array_equal(found["b"], np.ones((2, 2)))
    one = npy((3,), "<f4", b"0" * 12)
    for members, why in (
        ({"a.npy": one, "c.npy": one}, "allowed: a.npy"),
        ({"b.npy": one}, "allowed: a.npy"),
        ({"a.npy": npy((2**20,), "<f4", b"\0" * 2**22)}, "unpacks to 4,1"),
        ({"a.npy": npy((3,), "|O", b"0" * 12)}, "elements of the type"),
        ({"a.npy": npy((2**40,), "<f4", b"0" * 12)}, "and 12 bytes"),
        ({"a.npy": npy((-3,), "<f4", b"0" * 12)}, "has the shape"),
        ({"a.npy": b"no array"}, "magic"),
        ({"a.npy": b""}, "EOF|read"),
    ):
        with pytest.raises(PoolError, match=why):
            read_arrays(packed(path, members), ("a",), 1000)
    with pytest.raises(PoolError, match="packed in a way"):
        read_arrays(packed(path, {"a.npy": one}, zipfile.ZIP_BZIP2), ("a",), 1000)
    path.write_bytes(b"PK\3\4 nothing")
    with pytest.raises(PoolError, match="no file of arrays"):
        read_arrays(path, ("a",), 1000)
    with pytest.raises(PoolError, match="is missing"):
        read_arrays(tmp_path / "gone", ("a",), 1000)


def test_an_archive_that_unpacks_to_far_more_is_refused():
    bomb = io.BytesIO()
    packed(bomb, {"data": b"\0" * 20_000_000})
    with pytest.raises(ReadingError, match="unpack to 20,000,000"):
        check_archive(bomb)
    check_archive(io.BytesIO(b"no archive"))
