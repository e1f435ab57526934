import math

import pytest
import torch
import torch.nn.functional as F

from kfdeploy.training.objectives.information import bottleneck, infomax, infomax_reference, infomin_reference

N, D = 64, 16
BOUNDS = ["dv", "infonce"]


@pytest.fixture
def pair():
    torch.manual_seed(0)
    a = torch.randn(N, D)
    return a, a + 0.3 * torch.randn(N, D)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_order_of_the_batch_does_not_matter(pair, bound):
    a, b = pair
    order = torch.randperm(N)
    assert torch.allclose(infomax(a, b, bound=bound), infomax(a[order], b[order], bound=bound), atol=1e-5)


@pytest.mark.parametrize("bound", BOUNDS)
def test_true_pairs_hold_more_than_shuffled_ones(pair, bound):
    a, b = pair
    assert infomax(a, b, bound=bound) > infomax(a, b.roll(1, 0), bound=bound) + 1


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_critic_is_symmetric_where_the_bound_is(pair, bound):
    a, b = pair
    if bound == "dv":
        assert torch.allclose(infomax(a, b), infomax(b, a), atol=1e-5)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_collapse_holds_nothing(pair, bound, sign):
    a, b = pair
    collapsed = torch.ones(N, D)
    assert abs(float(infomax(collapsed, sign * collapsed, bound=bound))) < 1e-4
    assert infomax(a, b, bound=bound) > infomax(collapsed, sign * collapsed, bound=bound) + 1


def test_the_published_form_rewards_collapse(pair):
    """Why it is not the default: an antiparallel collapse beats perfect alignment."""
    a, _ = pair
    collapsed = torch.ones(N, D)
    assert infomax_reference(collapsed, -collapsed) > infomax_reference(a, a) + 0.5


def test_closed_form_of_two_pairs():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert math.isclose(float(infomax(a, a, temperature=0.5)), 2.0, abs_tol=1e-6)
    expected = math.log(2) - math.log(1 + math.exp(-2))
    assert math.isclose(float(infomax(a, a, bound="infonce", temperature=0.5)), expected, abs_tol=1e-6)
    torch.manual_seed(1)
    x, y = torch.randn(2, 5), torch.randn(2, 5)
    t = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.1
    by_hand = t.diagonal().mean() - torch.log((t[0, 1].exp() + t[1, 0].exp()) / 2)
    assert torch.allclose(infomax(x, y), by_hand, atol=1e-5)


def test_infonce_is_bounded_and_needs_two_pairs(pair):
    a, _ = pair
    assert float(infomax(a, a, bound="infonce", temperature=0.01)) <= math.log(N) + 1e-5
    with pytest.raises(ValueError, match="at least two pairs"):
        infomax(a[:1], a[:1])


@pytest.mark.parametrize("bound", BOUNDS)
def test_climbing_it_aligns_pairs_and_nothing_else(bound):
    torch.manual_seed(0)
    target = torch.randn(N, D)
    a = torch.randn(N, D, requires_grad=True)
    optimizer = torch.optim.SGD([a], lr=5.0)
    for _ in range(150):
        loss = -infomax(a, target, bound=bound)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosine = F.normalize(a.detach(), dim=1) @ F.normalize(target, dim=1).T
    assert (cosine.argmax(1) == torch.arange(N)).float().mean() > 0.95
    assert float(cosine.diagonal().mean()) > 0.6
    assert float(a.detach().std(0).mean()) > 0.3


@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_are_finite_from_bfloat16(pair, bound):
    a = (50 * pair[0]).bfloat16().requires_grad_()
    infomax(a, pair[1].bfloat16(), bound=bound, temperature=0.05).backward()
    assert torch.isfinite(a.grad).all()


def test_bottleneck_is_the_divergence_of_torch():
    torch.manual_seed(0)
    mu, logvar = torch.randn(6, 3, 5), torch.randn(6, 3, 5)
    from torch.distributions import Normal, kl_divergence

    exact = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    assert torch.allclose(bottleneck(mu, logvar), exact.sum((1, 2)).mean(), atol=1e-4)
    assert float(bottleneck(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3))) == 0.0


def test_the_published_bottleneck_looks_at_the_batch():
    """One sample's posterior plays no part: a batch that looks like N(0, I) costs nothing, whatever it tells of x."""
    torch.manual_seed(0)
    assert abs(float(infomin_reference(torch.randn(20_000, 2, 4)))) < 1e-2
    t = torch.randn(50, 2, 4) * 2 + 1
    mu, var = t.mean(0), t.var(0)
    assert torch.allclose(infomin_reference(t), (0.5 * (mu**2 + var - var.log() - 1)).mean(1).sum(), atol=1e-5)
