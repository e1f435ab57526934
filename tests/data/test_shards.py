import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from kfdeploy.data.fields import Asked
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.loop.loader import StreamLoader
from kfdeploy.training.recipe.sections import Augment

RGB8 = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_shards(toy, root, per_shard=40, numbers=False):
    """Write the toy's images, in the folder's order, as shards."""
    root.mkdir(exist_ok=True)
    for split in ("train", "test"):
        files = sorted((toy.data / split).glob("*/*.png"))
        names = sorted(path.name for path in (toy.data / split).iterdir())
        for start in range(0, len(files), per_shard):
            with tarfile.open(root / f"{split}-{start // per_shard:04}.tar", "w") as tar:
                for i, path in enumerate(files[start : start + per_shard], start):
                    label = names.index(path.parent.name) if numbers else path.parent.name
                    add(tar, f"{i:06}.png", path.read_bytes())
                    add(tar, f"{i:06}.cls", str(label).encode())
    return names


def load(root, split="train"):
    return load_split("webdataset", str(root), split, RGB8)


def test_shards_hold_what_folders_do(toy, tmp_path):
    folder = load_split("folder", str(toy.data), "train", RGB8)
    names = write_shards(toy, tmp_path / "names")
    write_shards(toy, tmp_path / "numbers", numbers=True)
    (tmp_path / "numbers" / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    for root in (tmp_path / "names", tmp_path / "numbers"):
        shards = load(root)
        assert shards.classes == folder.classes
        assert np.array_equal(shards.labels, folder.labels)
        assert np.array_equal(shards.load(), folder.load())


def test_they_stream_in_the_order_of_seed_and_epoch_whatever_the_workers(toy, tmp_path):
    write_shards(toy, tmp_path)
    augment = Augment(crop=1, flip=True, resized_crop=0.5)
    sets = load(tmp_path), load_split("folder", str(toy.data), "train", RGB8)
    batches = [
        list(StreamLoader(data, 16, augment, 0, torch.device("cpu"), workers=workers).epoch(1, start=2))
        for data, workers in zip(sets, (2, 0), strict=True)
    ]
    assert len(batches[0]) == 4
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.rows, b.rows)


def test_processes_share_them_without_overlap(toy, tmp_path, monkeypatch):
    from kfdeploy.training.loop import loader

    write_shards(toy, tmp_path)
    monkeypatch.setattr(loader, "world", lambda: 2)
    seen = []
    for number in (0, 1):
        monkeypatch.setattr(loader, "rank", lambda number=number: number)
        stream = StreamLoader(load(tmp_path), 16, Augment(), 0, torch.device("cpu"), workers=1)
        seen.append(torch.cat([batch.rows for batch in stream.epoch(0)]))
    assert [len(part) for part in seen] == [48, 48]
    assert len(torch.cat(seen).unique()) == 96


def test_a_sample_that_does_not_decode_is_named_with_its_shard(toy, tmp_path):
    write_shards(toy, tmp_path)
    with tarfile.open(tmp_path / "train-9999.tar", "w") as tar:
        add(tar, "bad.png", b"no image")
        add(tar, "bad.cls", b"cat")
    with pytest.raises(DataError, match=r"train-9999\.tar/bad\.png' does not decode"):
        load(tmp_path).load()
    with pytest.raises(DataError, match=r"^'.*train-9999\.tar/bad\.png' does not decode: [^\n]*$"):
        list(StreamLoader(load(tmp_path), 97, Augment(), 0, torch.device("cpu"), workers=1).epoch(0))


def test_what_is_not_as_it_should_be_is_refused_by_name(toy, tmp_path):
    with pytest.raises(DataError, match=r"data\.root is not set; shards are laid out as"):
        load("")
    with pytest.raises(DataError, match=r"there is no '.*train-\*\.tar'"):
        load(tmp_path)
    (tmp_path / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "train-0.tar.gz" in caught.value.hint
    write_shards(toy, tmp_path)
    shard = tmp_path / "train-0000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(
        DataError, match=r"the shard '.*train-0000\.tar' is damaged or is no tar file|has no \.cls|has no image"
    ):
        load(tmp_path)
    shard.write_bytes(b"nonsense" * 100)
    with pytest.raises(DataError, match=r"train-0000\.tar' is damaged or is no tar file"):
        load(tmp_path)
    with tarfile.open(shard, "w") as tar:
        add(tar, "a.png", b"")
    with pytest.raises(DataError, match=r"the sample 'a' of '.*train-0000\.tar' has no \.cls"):
        load(tmp_path)
    with tarfile.open(shard, "w") as tar:
        add(tar, "a.cls", b"7")
    with pytest.raises(DataError, match="has no image"):
        load(tmp_path)
    with tarfile.open(shard, "w") as tar:
        add(tar, "a.cls", b"7")
        add(tar, "a.png", b"x")
    with pytest.raises(DataError, match=r"classes by number \(7 …\), and there is no '.*classes\.txt'"):
        load(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="the sample 'a' of .* is of class '7'") as caught:
        load(tmp_path)
    assert caught.value.allowed == ("cat", "dog")


def test_a_shard_that_shrinks_after_it_was_indexed_is_named(toy, tmp_path):
    write_shards(toy, tmp_path)
    found = load(tmp_path)
    (tmp_path / "train-0001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-0001\.tar' ends before"):
        found.load()


def shard(root, samples, classes=None):
    for split in ("train", "test"):
        with tarfile.open(root / f"{split}-0000.tar", "w") as tar:
            for name, data in samples:
                add(tar, name, data)
    if classes is not None:
        (root / "classes.txt").write_bytes(classes)


def test_what_a_shard_says_of_classes_has_one_meaning(tmp_path):
    shard(tmp_path, [("0.png", b"x"), ("0.cls", b"1")], b"1\n2\n3\n")
    with pytest.raises(DataError, match="the class '1', which is a name in classes.txt and the number of the line '2'"):
        load(tmp_path)
    shard(tmp_path, [("0.png", b"x"), ("0.cls", b"1")], b"0\n1\n2\n")  # a name and its own number: one meaning
    assert list(load(tmp_path).labels) == [1]
    shard(tmp_path, [("0.png", b"x"), ("0.cls", b"\xef\xbb\xbfant")], "ant\nbee\n".encode("utf-8-sig"))
    assert load(tmp_path).classes == ("ant", "bee")
    shard(tmp_path, [("0.png", b"x"), ("0.cls", "élan".encode("latin1"))])
    with pytest.raises(DataError, match="'0.cls' of the shard .* is not UTF-8"):
        load(tmp_path)
    (tmp_path / "classes.txt").unlink()
    shard(tmp_path, [("a.v1.png", b"x"), ("a.v1.cls", b"ant")])
    with pytest.raises(DataError, match="have no sample of 'train'") as caught:
        load(tmp_path)
    assert "ends at its first dot" in caught.value.hint


def described(root, samples, split="train"):
    """Write a shard: of each sample its name, what its .json says (bytes: as they are), and its .cls."""
    root.mkdir(exist_ok=True)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(root / f"{split}-0.tar", "w") as tar:
        for name, said, cls in samples:
            add(tar, f"{name}.png", picture.getvalue())
            if said is not None:
                add(tar, f"{name}.json", said if isinstance(said, bytes) else json.dumps(said).encode())
            if cls is not None:
                add(tar, f"{name}.cls", cls.encode())


def asked(root, split="train", **about):
    return load_split("webdataset", str(root), split, RGB8, asked=Asked(**about))


SAID = [
    ("a", {"shape": "star", "lit": True, "n": 9}, None),
    ("b", {"shape": "disc", "lit": None, "n": 10}, None),
    ("c", {"lit": False, "n": 9, "shape": " "}, None),
]


def test_what_a_json_says_are_fields_and_what_it_does_not_is_unknown(tmp_path):
    described(tmp_path, SAID)
    found = asked(tmp_path)
    assert found.classes == ("shape: disc", "shape: star", "lit: false", "lit: true", "n: 9", "n: 10")
    assert found.labels.tolist() == [[1, 3, 4], [0, -1, 5], [-1, 2, 4]]
    assert found.load().shape == (3, 8, 8, 3)
    assert found.names()[0] == "train-0.tar/a.png"
    less = asked(tmp_path, ignore=("n",), orders={"lit": ("true", "false")})
    assert (less.classes[2:], less.ignored) == (("lit: true", "lit: false"), ("n",))
    assert asked(tmp_path, only=("n",)).classes == ("n: 9", "n: 10")


def test_cls_beside_it_is_the_field_class(tmp_path):
    described(tmp_path, [("a", {"lit": True}, "dog"), ("b", {"lit": False}, "cat"), ("c", None, "cat")])
    found = asked(tmp_path)
    assert found.classes == ("cat", "dog", "lit: false", "lit: true")
    assert found.labels.tolist() == [[1, 3], [0, 2], [0, -1]]
    (tmp_path / "classes.txt").write_text("dog\ncat\nemu\n")
    assert asked(tmp_path).classes[:3] == ("dog", "cat", "emu")
    described(tmp_path, [("a", {"class": "dog"}, "dog"), ("b", {"class": "cat"}, "dog")])
    with pytest.raises(DataError, match=r"the sample 'b' of '.*' is of class 'cat' in its \.json, and 'dog' in its"):
        asked(tmp_path)
    described(tmp_path, [("a", {"class": "dog"}, None), ("b", {"class": "cat"}, None)])
    plain = asked(tmp_path)
    assert (plain.classes, plain.fields, plain.labels.tolist()) == (("cat", "dog"), (), [1, 0])


def test_the_classes_of_the_test_shards_are_those_of_train(tmp_path):
    described(tmp_path, SAID)
    described(tmp_path, [("a", {"shape": "star", "lit": True, "n": 9}, None)], "test")
    assert asked(tmp_path, "test").labels.tolist() == [[1, 3, 4]]
    described(tmp_path, [("q", {"shape": "cube", "lit": True, "n": 9}, None)], "test")
    with pytest.raises(DataError, match="the sample 'q' of '.*test-0.tar': 'shape' is 'cube', and no image of the tr"):
        asked(tmp_path, "test")
    assert asked(tmp_path, "test", again=True).texts() == ("lit: true; n: 9; shape: cube",)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"{", "train-0.tar/b.json' cannot be read"),
        (b"[1]", "train-0.tar/b.json' is no table of fields"),
        (b'{"lit": 1, "lit": 2}', "b.json' cannot be read: it has the key 'lit' twice"),
        ({"lit": "x" * 1001}, "b.json': the value of 'lit' has 1,001 letters"),
        ({f"f{i}": 1 for i in range(1001)}, "b.json' is the first to have more than 1,000 fields"),
        (b" " * 1_000_001, "has 1,000,001 bytes, and at most 1,000,000 are read"),
        ({"image": "x", "lit": False, "n": 2}, "the field 'image' has a name that is taken inside a graph"),
    ],
)
def test_a_json_that_is_not_as_it_should_be_is_named(tmp_path, said, message):
    described(tmp_path, [("a", {"lit": True, "n": 1}, None), ("b", said, None)])
    with pytest.raises(DataError, match=message):
        asked(tmp_path)


def test_what_nobody_asks_for_stops_nothing(tmp_path):
    boxes = {"boxes": [[1, 2]], "where": {"x": 1}}
    described(tmp_path, [(f"{i}", {"id": i, "lit": i % 2} | boxes, None) for i in range(5)])
    assert asked(tmp_path, ignore=("id",)).classes == ("lit: 0", "lit: 1")
    with pytest.raises(DataError, match="'boxes of .*0.json' is no list of classes, and maps of labels are not there"):
        asked(tmp_path, only=("boxes",))


def test_incomplete_samples_are_refused_or_left_out(tmp_path):
    described(tmp_path, [("a", {"lit": True}, None), ("b", {"lit": False}, None), ("c", None, None)])
    with pytest.raises(DataError, match=r"the sample 'c' of '.*train-0\.tar' has no \.json"):
        asked(tmp_path)
    found = asked(tmp_path, partial=True)
    assert len(found) == 2
    assert found.note == f"1 samples of '{tmp_path / 'train'}-*.tar' that are incomplete were left out"
