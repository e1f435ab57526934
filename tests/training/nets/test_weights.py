"""Weights to begin from: files, pools, timm's; and a few lines on what does not fit, with the nearest net."""

import json

import pytest
import torch
from safetensors.torch import save_file

from kfdeploy.errors import RecipeError
from kfdeploy.pool.pool import Pool
from kfdeploy.training.nets.build import build
from kfdeploy.training.nets.weights import misfit, own_nets, start_from
from kfdeploy.training.recipe.nets import CifarResNet, MobileNetV2, Timm


def resnet(depth=8, **fields):
    return CifarResNet(family="cifar_resnet", depth=depth, **fields)


def equal(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items() if not key.endswith("num_batches_tracked"))


def test_a_checkpoint_fills_a_backbone_without_its_last_layer(tmp_path):
    source = build(resnet(), 3)
    state = {f"module.{key}": value.half() for key, value in source.state_dict().items()}
    torch.save({"state_dict": state | {"module.linear.weight": torch.zeros(10, 64)}}, tmp_path / "t.ckpt")
    target = build(resnet(), 3)
    about = start_from(target, resnet(weights=str(tmp_path / "t.ckpt")), 3, "the CKN")
    assert about["file"] == "t.ckpt"
    assert len(about["sha256"]) == 64
    assert equal({key: value.half().float() for key, value in source.state_dict().items()}, target.state_dict())
    assert start_from(target, resnet(), 3, "the CKN") == {}


def test_a_pools_common_network(toy):
    net = toy.recipe.ckn.model_copy(update={"weights": f"pool:{toy.pool}"})
    target = build(net, 3)
    about = start_from(target, net, 3, "the CKN")
    assert about == {"pool": "toy", "sha256": Pool.open(toy.pool).sha256}
    kept = Pool.open(toy.pool).tensors("train/state.safetensors")
    assert equal({k.removeprefix("net.ckn."): torch.from_numpy(v) for k, v in kept.items() if k.startswith("net.ckn.")},
                 target.state_dict())  # fmt: skip
    with pytest.raises(RecipeError, match=r"'pool:.*' does not fit the CKN: of its \d+ tensors"):
        start_from(build(MobileNetV2(family="mobilenetv2"), 3), MobileNetV2(family="mobilenetv2", weights=net.weights), 3,
                   "the CKN")  # fmt: skip


def test_what_does_not_fit_is_said_in_a_line_with_the_nearest_net(tmp_path):
    save_file(build(resnet(20), 3).state_dict(), tmp_path / "t.safetensors")
    with pytest.raises(RecipeError, match=r"of its 35 tensors \d+ are not the net's \(layer1\.1\.") as caught:
        start_from(build(resnet(), 3), resnet(weights=str(tmp_path / "t.safetensors")), 3, "the CKN ResNet-8")
    assert "it fits ResNet-20: { family = 'cifar_resnet', depth = 20 }" in caught.value.hint
    assert "\x1b" not in str(caught.value)
    with pytest.raises(RecipeError, match="there are no weights at"):
        start_from(build(resnet(), 3), resnet(weights=str(tmp_path / "none.pt")), 3, "the CKN")
    assert misfit({"a": (1,)}, {"a": (1,)}, "x", "y", None) == ("", "")
    assert len(dict(own_nets(3, {"layer1.0.conv1.weight": (1,)}))) > 20
    assert not dict(own_nets(3, {"nobody.weight": (1,)}))


def test_timms_checkpoints_and_arguments(tmp_path):
    timm = pytest.importorskip("timm")
    whole = timm.create_model("mobilenetv3_small_050", num_classes=7, pad_type="same")
    save_file(whole.state_dict(), tmp_path / "t.safetensors")
    net = Timm(family="timm", model="mobilenetv3_small_050", args={"pad_type": "same"})
    target = build(net, 3)
    start_from(target, net.model_copy(update={"weights": str(tmp_path / "t.safetensors")}), 3, "the CKN")
    kept = whole.state_dict()
    assert equal({key.removeprefix("net."): value for key, value in target.state_dict().items()}, kept)
    assert "Same" in repr(target)  # the argument arrived
    other = Timm(family="timm", model="mobilenetv3_small_075", weights=str(tmp_path / "t.safetensors"))
    with pytest.raises(RecipeError, match="does not fit the CKN: .* another shape") as caught:
        start_from(build(other, 3), other, 3, "the CKN")
    assert "mobilenetv3_small_050" in caught.value.hint
    with pytest.raises(RecipeError, match="cannot give the backbone"):
        build(Timm(family="timm", model="mobilenetv3_small_050", args={"no_such": 1}), 3)


def test_a_recipe_takes_weights_where_they_mean_something(toy):
    from kfdeploy.training.recipe.recipe import apply_settings, load_recipe, parse_recipe

    def changed(*settings):
        return parse_recipe(apply_settings(json.loads(json.dumps(toy.recipe.model_dump())), settings), "toy")

    assert load_recipe("digits", ["students.0.weights=a.pt"]).students[0].net.weights == "a.pt"
    for settings, message in (
        (("tsn.net.weights=a.pt",), "the TSNs of all tasks are trained together"),
        (("students.0.net.weights=b.pt", "students.0.weights=a.pt"), "weights and net.weights"),
        (("teacher.output=x",), "output is for teachers from onnx"),
        (('ckn={family="timm", model="m", pretrained=true, weights="x"}',), "leave one of them out"),
    ):
        with pytest.raises(RecipeError, match=message):
            changed(*settings)
    assert load_recipe("digits").ckn.weights == ""
