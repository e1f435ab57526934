"""Damaged and hostile files of every kind that kfdeploy reads, made from whole ones: a function of (bytes, random)."""

import io
import json
import random
import re
import struct
import zipfile
import zlib

import numpy as np

ODD = (None, True, False, -1, 0, 1, 2, 7, 0.5, -0.0, 1e308, -1e308, 2**31, 2**31 - 1, 2**32, 2**63, -(2**63), 2**64, 10**30,
       10**400, float("nan"), float("inf"), "", " ", "x", "x" * 5000, "../../x", "/etc/passwd", "a/../../b", "\0",
       "\ud800", "\N{RIGHT-TO-LEFT OVERRIDE}", "\x1b[2J", "name\nerror: all is well", "NaN", "-1", "35184372088832", [], {},
       [[]], [None], [1, 2, 3], {"a": 1}, ["x"] * 50, "float32", "onnx", "..", ".", "CON", "é", "\N{GRINNING FACE}")  # fmt: skip


def places(value, at=()):
    """Return the paths of everything in a JSON value."""
    found = [at]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:40]):
            found += places(inner, (*at, i))
    return found


def odd(dice):
    """Return something that nobody expects."""
    if dice.random() < 0.05:
        deep = []
        for _ in range(dice.choice((60, 900))):
            deep = [deep] if dice.random() < 0.5 else {"a": deep}
        return deep
    return dice.choice(ODD)


def changed(value, dice, times=1):
    """Change a JSON value in a few places, in place; return it."""
    for _ in range(times):
        path = dice.choice(places(value)[1:] or [()])
        if not path:
            return odd(dice)
        inside = value
        for step in path[:-1]:
            inside = inside[step]
        last = path[-1]
        what = dice.random()
        if what < 0.2:
            del inside[last]
        elif what < 0.75:
            inside[last] = odd(dice)
        elif what < 0.85 and isinstance(inside[last], int | float) and not isinstance(inside[last], bool):
            inside[last] = inside[last] * dice.choice((-1, 2, 1000, 10**12)) + dice.choice((0, 1))
        elif what < 0.95 and isinstance(inside[last], list) and inside[last]:
            inside[last] = inside[last] * dice.choice((2, 300)) if dice.random() < 0.6 else inside[last][:-1]
        elif isinstance(inside, dict):
            inside[dice.choice(("extra", "../x", "é", *map(str, inside)))] = inside[last]
        else:
            inside.append(inside[last])
    return value


def dumped(value):
    """Return JSON that may hold NaN, half characters and numbers without an end."""
    try:
        return json.dumps(value, ensure_ascii=True).encode()
    except (ValueError, RecursionError):
        return b"[" * 100_000


def scrambled(data, dice):
    """Change bytes: some flipped, a piece gone, twice there or moved, the end cut off."""
    data = bytearray(data)
    what = dice.randrange(7)
    if not data or what == 0:
        return bytes(data[: dice.randrange(len(data) + 1)])
    at, size = dice.randrange(len(data)), dice.choice((1, 2, 8, 100))
    if what in (1, 2):
        for _ in range(dice.choice((1, 3, 20))):
            data[dice.randrange(len(data))] = dice.randrange(256)
    elif what == 3:
        data[at : at + size] = b""
    elif what == 4:
        data[at:at] = data[at : at + size] * dice.choice((1, 50))
    elif what == 5:
        data[at : at + size] = dice.randbytes(size)
    else:
        data[at : at + size] = dice.choice((b"\xff", b"\x00", b"\x7f")) * size
    return bytes(data)


def json_file(data, dice):
    """Return a mutant of a JSON file."""
    what = dice.random()
    if what < 0.12:
        return scrambled(data, dice)
    if what < 0.2:
        text = data.decode()
        return dice.choice((
            b"[" * 200_000, b'{"a":' * 100_000, b"", b"null", b"[]", b"{}", b"\xff\xfe{", text.encode("utf-16"),
            b"\xef\xbb\xbf" + data, data + data, data + b"\0" * 1000, text.replace(":", ": -", 3).encode(),
            re.sub(r"\d+", lambda m: m[0] * dice.choice((1, 2, 400)), text, count=5).encode(),
            text.replace("{", '{"schema": 1, "schema": 1, ', 1).encode(), b"[" + b"0," * 3_000_000 + b"0]",
            b'{"schema":1,"kind":"pool","x":"' + b"\\ud800" * 100 + b'"}', b"1" * 5000,
        ))  # fmt: skip
    return dumped(changed(json.loads(data), dice, dice.choice((1, 1, 1, 2, 4))))


def tensors_file(data, dice):
    """Return a mutant of a safetensors file: of its header, of its length, of what is in it."""
    what = dice.random()
    if what < 0.15:
        return scrambled(data, dice)
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if what < 0.25:
        wrong = dice.choice((0, 1, length - 1, length + 1, 2**63, 2**64 - 1, 100_000_000))
        return wrong.to_bytes(8, "little") + data[8:]
    if what < 0.45:  # whole, and full of numbers that are none
        values = np.frombuffer(rest, np.uint8).copy()
        for _ in range(dice.choice((4, 400))):
            at = dice.randrange(max(1, len(values) // 4)) * 4
            values[at : at + 4] = np.frombuffer(struct.pack("<f", dice.choice((float("nan"), 3e38, -3e38))), np.uint8)[
                : len(values[at : at + 4])
            ]
        return data[: 8 + length] + values.tobytes()
    if what < 0.6:  # consistent, and of other kinds and shapes than are meant
        return reshaped(header, rest, dice)
    text = dumped(changed(header, dice, dice.choice((1, 1, 3))))
    return len(text).to_bytes(8, "little") + text + rest


def reshaped(header, rest, dice):
    """Return a file whose header fits it, with one tensor of another shape, kind, or name."""
    arrays = {name: (said["dtype"], said["shape"], rest[slice(*said["data_offsets"])])
              for name, said in header.items() if name != "__metadata__"}  # fmt: skip
    if arrays:
        name = dice.choice(sorted(arrays))
        dtype, shape, content = arrays.pop(name)
        what = dice.randrange(5)
        each = len(content) // max(1, int(np.prod(shape))) or 1
        if what == 0:
            arrays[name] = (dtype, [len(content) // each], content)
        elif what == 1:
            arrays[name] = (dtype, shape[::-1], content)
        elif what == 2:
            arrays[name] = ("U8", [len(content)], content)
        elif what == 3:
            arrays[f"{name}.other"] = (dtype, shape, content)
        elif shape:
            keep = dice.randrange(shape[0]) if shape[0] else 0
            size = len(content) // (shape[0] or 1) * keep
            arrays[name] = (dtype, [keep, *shape[1:]], content[:size])
    made, out = {"__metadata__": header.get("__metadata__", {})}, b""
    for name, (dtype, shape, content) in arrays.items():
        made[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(out), len(out) + len(content)]}
        out += content
    text = json.dumps(made).encode()
    return len(text).to_bytes(8, "little") + text + out


def npz_file(data, dice):
    """Return a mutant of an .npz file."""
    what = dice.random()
    if what < 0.2:
        return scrambled(data, dice)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = dice.choice(sorted(members))
    packing = dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    array = np.load(io.BytesIO(members[name]))
    if what < 0.3:
        members[name] = npy(array.shape, array.dtype.descr, b"\0" * dice.choice((1 << 20, 150 << 20)))
    elif what < 0.45:
        shape = dice.choice(((2**40,), (-1, 4), (), (2**31, 2**31), (1,) * 40, array.shape[::-1], array.shape[:-1]))
        members[name] = npy(shape, array.dtype.descr, array.tobytes())
    elif what < 0.6:
        descr = dice.choice(("|O", "<f8", "<c16", "|S10", "<U5", "|V8", "|u1", ">f4", [("a", "<f4")], "<M8[s]"))
        members[name] = npy(array.shape, descr, array.tobytes())
    elif what < 0.7:
        members[name] = scrambled(members[name], dice)
    elif what < 0.8:
        members.pop(name)
    elif what < 0.9:
        members[dice.choice(("extra.npy", "../../x.npy", name + name))] = members[name]
    else:
        out = io.BytesIO()
        values = {key.removesuffix(".npy"): np.load(io.BytesIO(value)) for key, value in members.items()}
        key = name.removesuffix(".npy")
        values[key] = dice.choice((array[:1], array.astype(np.float64), array * 0, np.full(array.shape, np.nan, "f4")))
        np.savez(out, **values)
        return out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return out.getvalue()


def npy(shape, descr, content):
    """Return a .npy file that says what it likes."""
    text = repr({"descr": descr[0][1] if isinstance(descr, list) and len(descr) == 1 and descr[0][0] == "" else descr,
                 "fortran_order": False, "shape": shape}).encode() + b"\n"  # fmt: skip
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def image_file(data, dice):
    """Return a mutant of an image file."""
    what = dice.random()
    if what < 0.2 and data[:4] == b"\x89PNG":
        width, height = dice.choice(
            ((1, 2**27), (2**27, 1), (2**31 - 1, 1), (11_000, 11_000), (0, 5), (8, 2**20), (3_000, 3_000))
        )
        depth, colour = dice.choice(((8, 2), (16, 0), (1, 0), (8, 6), (16, 6), (8, 3)))
        content = zlib.compress(b"\0" * dice.choice((10, 10_000_000)))
        return png(width, height, depth, colour, content)
    if what < 0.25:
        return dice.choice(
            (b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"8BPS", b"P6 99999 99999 255\n", b"\0" * 1000)
        )
    for _ in range(dice.choice((1, 2, 6))):
        data = scrambled(data, dice)
    return data


def png(width, height, depth, colour, content):
    """Return a PNG file that says what it likes."""

    def chunk(kind, inside):
        return struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))

    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def toml_file(data, dice):
    """Return a mutant of a recipe."""
    if dice.random() < 0.15:
        return scrambled(data, dice)
    lines = data.decode().split("\n")
    at = dice.randrange(len(lines))
    what = dice.randrange(8)
    key = lines[at].partition("=")[0]
    if what == 0:
        del lines[at]
    elif what <= 4:
        lines[at] = f"{key}= " + dice.choice((
            "-1", "0", "1e400", "nan", "inf", "9" * 30, "9" * 5000, "true", '""', '"x"', "[]", "{}", "[[1]]", "1979-05-27",
            "[" * 3000, "[" * 60 + "]" * 60, '"\\u0000"', '"a\\nb"', '["a", 1]', "2147483648", "-0.0", "0x10", "{ a = { b = 1 } }",
        ))  # fmt: skip
    elif what == 5:
        lines.insert(at, lines[dice.randrange(len(lines))])
    elif what == 6:
        lines.insert(at, ".".join(["a"] * dice.choice((5, 3000))) + " = 1")
    else:
        lines[at] = dice.choice(("[x", "= 1", "[[tasks]]", "[tasks.x.y]", "\0", "a = '''", "[train]\n[train]"))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def update_file(data, dice):
    """Return a mutant of an update: of its frame, or of what is signed in it, with hashes that fit."""
    if dice.random() < 0.4:
        return tensors_file(data, dice)
    import hashlib

    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    about = json.loads(header["__metadata__"]["kfdeploy"])
    files = about["manifest"]["files"]
    payloads = {name: rest[slice(*said["data_offsets"])] for name, said in header.items() if name != "__metadata__"}
    if dice.random() < 0.4:
        about = changed(about, dice, dice.choice((1, 2)))
    elif payloads:
        name = dice.choice(sorted(payloads))
        if dice.random() < 0.4:
            size = dice.choice((1 << 20, 30 << 20, 200 << 20))
            payloads[name] = zlib.compress(b"\0" * size, 9)
            files[name]["unpacked"] = dice.choice((size, size, 2**40, 10))
        else:
            try:
                payloads[name] = zlib.compress(scrambled(zlib.decompress(payloads[name]), dice), 9)
            except zlib.error:
                payloads[name] = scrambled(payloads[name], dice)
        files[name]["bytes"] = len(payloads[name])
        files[name]["sha256"] = hashlib.sha256(payloads[name]).hexdigest()
    made, out = {"__metadata__": {"kfdeploy": dumped(about).decode("utf-8", "replace")}}, b""
    for name, content in payloads.items():
        made[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [len(out), len(out) + len(content)]}
        out += content
    text = json.dumps(made).encode()
    return len(text).to_bytes(8, "little") + text + out


def dice_of(kind, number):
    """Return the dice of one mutant: the same for ever."""
    return random.Random(f"{kind}/{number}")
