import pytest
import torch
from settled import settle

from kfdeploy.pool.pool import Pool
from kfdeploy.training.factorize import factorize
from kfdeploy.training.nets.branches import Side, merged
from kfdeploy.training.nets.build import build
from kfdeploy.training.recipe.nets import CifarResNet, ConvNet
from kfdeploy.training.recipe.recipe import apply_settings, parse_recipe

NETS = [
    (CifarResNet(family="cifar_resnet", depth=8, width=8, branches=True), 1),
    (CifarResNet(family="cifar_resnet", depth=8, width=8, shortcut="projection", branches=True), 3),
    (ConvNet(family="convnet", channels=[8, 8, 16], strides=[1, 1, 2], branches=True), 1),
    (ConvNet(family="convnet", channels=[8, 8, 16], strides=[2, 1, 1], branches=True), 3),
]


def settled(net, tasks):
    torch.manual_seed(0)
    return settle(build(net, 8 if net.family == "convnet" else 3, tasks=tasks))


@pytest.mark.parametrize(("net", "tasks"), NETS)
def test_branches_fold_into_one_convolution(net, tasks):
    """A sum of normalised convolutions is one convolution: the plain net has the same parameters and outputs."""
    branched = settled(net, tasks)
    x = torch.randn(2, 8 if net.family == "convnet" else 3, 16, 16)
    single = merged(branched)
    plain = build(net.model_copy(update={"branches": False}), x.shape[1], tasks=tasks).eval()
    assert plain.state_dict().keys() == single.state_dict().keys()
    plain.load_state_dict(single.state_dict())
    assert any(isinstance(module, Side) for module in branched.modules())  # the original keeps its own
    for before, after, again in zip(branched(x), single(x), plain(x), strict=True):
        assert (before - after).abs().max() <= 2e-5 * before.abs().max()
        assert torch.equal(after, again)


def test_a_net_without_branches_is_itself():
    plain = build(ConvNet(family="convnet", channels=[8], strides=[1]), 3)
    assert merged(plain) is plain


def test_the_identity_is_there_where_shapes_allow_it():
    assert Side(8, 8).same is not None
    assert Side(8, 8, 2).same is None
    assert Side(8, 16).same is None
    assert Side(8, 8, tasks=2, shared=True).same is None  # a bank's first layer reads what all share


def test_a_pool_of_branched_nets_is_proved_and_has_plain_graphs(toy, tmp_path):
    settings = ["train.epochs=1", "teacher.train.epochs=1", "ckn.branches=true", "tsn.net.branches=true"]
    recipe = parse_recipe(apply_settings(toy.recipe.model_dump(), settings), "toy")
    factorize(recipe, tmp_path / "pool")  # proves the graphs against the network in training form
    pool, plain = Pool.open(tmp_path / "pool"), Pool.open(toy.pool)
    for made, known in zip(pool.graphs(), plain.graphs(), strict=True):
        assert [node.op_type for node in made.graph.node] == [node.op_type for node in known.graph.node]
