import pickle

import numpy as np
import pytest
import torch
from places import SHARED
from safetensors.torch import save_file

from kfdeploy.errors import TeacherError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher, fill, pretrained, read_weights
from kfdeploy.training.recipe.nets import CifarResNet
from kfdeploy.training.recipe.sections import Teacher as Config

IMAGE = ImageSpec((16, 16), 3, (0.5,) * 3, (0.25,) * 3)
NET = CifarResNet(family="cifar_resnet", depth=8)
NAMES = ("cat", "dog", "emu")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Classifier(NET, IMAGE, 3).eval()


def published(net):
    """The keys of published checkpoints: no `backbone.`, a `linear`, behind `module.` inside `state_dict`."""
    renamed = {k.removeprefix("backbone.").replace("head.", "linear."): v for k, v in net.state_dict().items()}
    return {f"module.{key}": value for key, value in renamed.items()}


def config(path, **more):
    return Config(source=f"file:{path}", net=NET, **more)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".th", ".pth"])
def test_a_published_checkpoint_is_read_whole(tmp_path, net, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".safetensors":
        save_file(published(net), path)
    else:
        torch.save({"state_dict": published(net), "epoch": 3}, path)
    teacher = pretrained(config(path), IMAGE, NAMES, ("emu", "cat"))
    x = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    logits, features = teacher(x)
    with torch.no_grad():
        expected = net(x)[0]
    assert torch.allclose(logits, expected[:, [2, 0]])
    assert tuple(f.shape[1] for f in features) == teacher.channels == (16, 32, 64)


def test_it_stays_in_eval_and_never_changes(net):
    teacher = Teacher(net, [0, 1, 2], (16, 32, 64))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    outer = torch.nn.Sequential(teacher)
    outer.train()
    assert not any(module.training for module in teacher.modules())
    teacher(torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_keys_that_do_not_fit_are_counted_and_named(tmp_path, net):
    state = published(net)
    del state["module.conv1.weight"]
    state["module.extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "t.pt")
    with pytest.raises(
        TeacherError, match=r"of its 37 tensors 1 is missing \(conv1\.weight\), 1 is not the net's \(extra\.weight\)"
    ):
        pretrained(config(tmp_path / "t.pt"), IMAGE, NAMES, NAMES)
    other = Classifier(CifarResNet(family="cifar_resnet", depth=8, width=8), IMAGE, 3)
    with pytest.raises(TeacherError, match=r"36 have another shape \(conv1\.weight: 16×3×3×3 for 8×3×3×3, "):
        fill(other, dict(net.state_dict()), "t")


def test_wrong_classes_are_refused(tmp_path, net):
    torch.save(published(net), tmp_path / "t.pt")
    with pytest.raises(TeacherError, match="has 3 classes, the recipe's has 4"):
        pretrained(config(tmp_path / "t.pt"), IMAGE, (*NAMES, "fox"), NAMES)
    with pytest.raises(TeacherError, match="the teacher does not know the class 'fox'"):
        pretrained(config(tmp_path / "t.pt", classes=list(NAMES)), IMAGE, (*NAMES, "fox"), ("fox",))


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(TeacherError, match="there is no teacher at"):
        read_weights(tmp_path / "none.pt")
    (tmp_path / "t.zip").write_bytes(b"")
    with pytest.raises(TeacherError, match=r"of an unknown kind '\.zip'"):
        read_weights(tmp_path / "t.zip")

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    (tmp_path / "t.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(TeacherError, match="cannot be read as weights alone"):
        read_weights(tmp_path / "t.pt")
    (tmp_path / "t.safetensors").write_bytes(b"short")
    with pytest.raises(TeacherError, match="cannot be read as weights alone"):
        read_weights(tmp_path / "t.safetensors")


def test_its_own_normalisation_can_differ(tmp_path, net):
    torch.save(published(net), tmp_path / "t.pt")
    other = ImageSpec((16, 16), 3, (0.1,) * 3, (0.9,) * 3)
    teacher = pretrained(config(tmp_path / "t.pt", mean=[0.5] * 3, std=[0.25] * 3), other, NAMES, NAMES)
    x = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(teacher(x)[0], net(x)[0], atol=1e-6)


@pytest.mark.parametrize(("source", "size"), [("torchvision:resnet18", 64), ("timm:resnet10t", 64)])
def test_library_models_with_weights_of_ones_own(tmp_path, source, size):
    kind, name = source.split(":")
    if kind == "torchvision":
        from torchvision import models

        model = models.get_model(name, weights=None, num_classes=3)
    else:
        import timm

        model = timm.create_model(name, num_classes=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    image = ImageSpec((size, size), 3, (0.5,) * 3, (0.25,) * 3)
    made = Config(source=source, weights=str(tmp_path / "w.safetensors"))
    teacher = pretrained(made, image, NAMES, NAMES)
    x = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    logits, features = teacher(x)
    with torch.no_grad():
        expected = model.eval()((x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert tuple(f.shape[1] for f in features) == teacher.channels
    assert len(features) >= 3
    with pytest.raises(TeacherError, match="does not fit the model"):
        pretrained(made, image, (*NAMES, "fox"), NAMES)


def test_library_models_that_cannot_be_had(monkeypatch):
    with pytest.raises(TeacherError, match="torchvision has no classifier 'resnet19'"):
        pretrained(Config(source="torchvision:resnet19"), IMAGE, NAMES, NAMES)
    with pytest.raises(TeacherError, match="timm has no model 'resnet19x'"):
        pretrained(Config(source="timm:resnet19x"), IMAGE, NAMES, NAMES)
    with pytest.raises(TeacherError, match="torchvision's resnet18 has 1000 classes, the recipe's has 3"):
        pretrained(Config(source="torchvision:resnet18"), IMAGE, NAMES, NAMES)
    import timm

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(TeacherError, match=r"could not be downloaded: OSError: no route") as caught:
        pretrained(Config(source="timm:resnet18"), IMAGE, NAMES, NAMES)
    assert "teacher.weights" in caught.value.hint


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published teacher is not beside this checkout")
def test_the_published_teacher_has_its_published_accuracy(tmp_path):
    import io
    import tarfile

    from PIL import Image

    path = SHARED / "weights" / "resnet20-12fca82f.th"
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image = ImageSpec((32, 32), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    made = Config(source=f"file:{path}", net=CifarResNet(family="cifar_resnet", depth=20))
    teacher = pretrained(made, image, names, names)
    pixels, labels = [], []
    with tarfile.open(SHARED / "data" / "cifar10-test.tar.xz") as archive:
        for member in archive:
            if member.isfile() and int(member.name.split("/")[-1][:4]) % 10 == 0:
                pixels.append(np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read()))))
                labels.append(names.index(member.name.split("/")[-2]))
    found = teacher(torch.from_numpy(np.stack(pixels)))[0].argmax(1).numpy()
    assert len(labels) == 1000
    assert abs((found == np.array(labels)).mean() - 0.9173) < 0.03


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": {"state": {}}},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "pytorch-lightning_version": "2"},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    ],
    ids=["tutorial", "lightning", "compiled", "ddp-compiled", "nested", "ema", "half"],
)
def test_checkpoints_are_read_as_people_have_them(tmp_path, net, wrap):
    own = {key.removeprefix("backbone."): value for key, value in net.state_dict().items()}
    torch.save(wrap(own), tmp_path / "t.pt")
    found = read_weights(tmp_path / "t.pt")
    assert found.keys() == own.keys()
    assert all(torch.allclose(found[key].float(), own[key].float(), atol=1e-2) for key in own)
    assert all(value.dtype != torch.float16 for value in found.values())


@pytest.mark.parametrize(
    ("name", "widths"), [("convnext_tiny", [96, 192, 384, 768]), ("swin_v2_t", [96, 192, 384, 768])]
)
def test_stages_are_maps_with_channels_first_whatever_the_model_computes_with(name, widths):
    models = pytest.importorskip("torchvision.models")
    from kfdeploy.training.nets.teacher import _Torchvision

    made = _Torchvision(
        models.get_model(name, weights=None, num_classes=3), ImageSpec((64, 64), 3, (0.5,) * 3, (0.25,) * 3)
    )
    with torch.no_grad():
        _, stages = made.eval()(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert [stage.shape[1] for stage in stages] == widths == made.channels
    assert [stage.shape[2] for stage in stages] == [16, 8, 4, 2]


def test_tokens_are_no_stages():
    models = pytest.importorskip("torchvision.models")
    from kfdeploy.training.nets.teacher import _Torchvision

    with pytest.raises(TeacherError, match="no maps of several sizes"):
        _Torchvision(models.get_model("vit_b_16", weights=None, num_classes=3, image_size=64),
                     ImageSpec((64, 64), 3, (0.5,) * 3, (0.25,) * 3))  # fmt: skip
