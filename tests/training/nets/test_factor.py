import pytest
import torch

from kfdeploy.errors import RecipeError
from kfdeploy.tasks.spec import ImageSpec, TaskSpec
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.recipe.nets import CifarResNet, ConvNet
from kfdeploy.training.recipe.sections import Tsn

IMAGE = ImageSpec((8, 8), 3, (0.5,) * 3, (0.25,) * 3)
TASKS = (TaskSpec("pets", ("cat", "dog")), TaskSpec("emu", ("emu",)), TaskSpec("big", ("a", "b", "c")))
CKN = CifarResNet(family="cifar_resnet", depth=8, width=8)


def make(tap="stage2"):
    torch.manual_seed(0)
    return FactorNet(CKN, Tsn(tap=tap, net=ConvNet(family="convnet", channels=[8, 12], strides=[2, 1])), IMAGE, TASKS)


@pytest.mark.parametrize("tap", ["image", "stage1", "stage3"])
def test_logits_are_each_tasks_head_of_z_plus_its_own_t(tap):
    net = make(tap).eval()
    x = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    out = net(x)
    stages, u = net.features(net.normalise(x))
    z = stages[-1].mean((2, 3))
    for column, task in enumerate([0, 0, 1, 2, 2, 2]):
        t = u[:, task] @ net.project[task]
        expected = (z + t) @ net.head.weight[column] + net.head.bias[column]
        assert torch.allclose(out.logits[:, column], expected, atol=1e-5)
    assert torch.equal(out.t, out.mu)


def test_folded_heads_give_the_same_logits():
    net = make().eval()
    x = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    stages, u = net.features(net.normalise(x))
    W, WA, b = (tensor.float() for tensor in net.folded_heads())
    folded = stages[-1].mean((2, 3)) @ W.T + torch.einsum("ncD,cD->nc", u[:, net.owner], WA) + b
    assert torch.allclose(folded, net(x).logits, atol=1e-5)


def test_the_way_from_u_to_a_logit_begins_as_a_linear_layer_of_its_own():
    torch.manual_seed(0)
    tsn = Tsn(tap="stage2", net=ConvNet(family="convnet", channels=[8, 48], strides=[2, 1]))
    many = tuple(TaskSpec(f"t{i}", tuple(f"t{i}c{j}" for j in range(5))) for i in range(20))
    _, WA, _ = FactorNet(CKN, tsn, IMAGE, many).folded_heads()
    assert WA.std().item() == pytest.approx(48**-0.5, rel=0.05)


def test_t_is_sampled_around_its_mean_and_starts_nearly_deterministic():
    net = make().eval()
    x = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    noise = torch.randn(5, 3, 32)
    out = net(x, noise)
    assert torch.allclose(out.t, out.mu + (0.5 * out.logvar).exp() * noise)
    assert torch.allclose(out.logvar, torch.full_like(out.logvar, -5.0))
    net.spread_bias.data.fill_(99.0)
    assert float(net(x).logvar.detach().max()) == 10.0


def test_the_auxiliary_heads_see_t_alone_and_hide_classes_a_task_lacks():
    net = make().eval()
    out = net(torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8))
    assert out.task_logits.shape == (5, 3, 4)
    finite = torch.isfinite(out.task_logits)[0]
    assert finite.sum(1).tolist() == [3, 2, 4]  # "other" and the task's classes
    assert net.local.tolist() == [1, 2, 1, 1, 2, 3]


def test_a_tap_that_the_ckn_lacks_is_refused():
    with pytest.raises(RecipeError, match=r"tsn\.tap is 'stage4', and the CKN has 3 stages"):
        make("stage4")
