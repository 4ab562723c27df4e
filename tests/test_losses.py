"""Losses against plain torch, in value and gradient; the sample against the catalogue; clouds."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.losses import chunked_cross_entropy, coral, info_nce, mmd, sampled_softmax


def problem(seed=0, n=70, n_items=40, d=8, size=1.0):
    torch.manual_seed(seed)
    hidden, items, bias = size * torch.randn(n, d), torch.randn(n_items, d), torch.randn(n_items)
    scale, targets = torch.tensor(1.3), torch.randint(0, n_items, (n,))
    return [x.requires_grad_() for x in (hidden, items, bias, scale)], targets


def plain(hidden, items, targets, bias=0.0, scale=1.0):
    return F.cross_entropy(hidden @ items.T * scale + bias, targets)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 50),
    n_items=st.integers(1, 30),
    d=st.integers(1, 9),
    chunk=st.integers(1, 60),
)
def test_fused_equals_plain_in_value_and_gradients(seed, n, n_items, d, chunk):
    (hidden, items, bias, scale), targets = problem(seed, n, n_items, d)
    ours = chunked_cross_entropy(hidden, items, targets, bias, scale, chunk)
    theirs = plain(hidden, items, targets, bias, scale)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    inputs = (hidden, items, bias, scale)
    for mine, wanted in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
def test_fused_is_stable_for_any_size_of_logits(size):
    (hidden, items, *_), targets = problem(size=size)
    ours, theirs = chunked_cross_entropy(hidden, items, targets, chunk=32), plain(hidden, items, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    mine, wanted = (torch.autograd.grad(loss, items)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine / (1 + size), wanted / (1 + size), atol=1e-5, rtol=1e-4)


def test_fused_passes_the_arriving_gradient_on():
    (hidden, items, *_), targets = problem()
    (3 * chunked_cross_entropy(hidden, items, targets) + hidden.sum()).backward()
    torch.testing.assert_close(hidden.grad, 3 * torch.autograd.grad(plain(hidden, items, targets), hidden)[0] + 1)


@pytest.mark.parametrize("frozen", [0, 1])
def test_fused_with_a_frozen_side(frozen):
    (*inputs, _, _), targets = problem()
    inputs[frozen] = inputs[frozen].detach()
    learned = inputs[1 - frozen]
    (mine,) = torch.autograd.grad(chunked_cross_entropy(*inputs, targets, chunk=16), learned)
    torch.testing.assert_close(mine, torch.autograd.grad(plain(*inputs, targets), learned)[0])


def test_fused_without_gradients():
    (hidden, items, *_), targets = problem()
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, items, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, items, targets).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_on_short_floats_keeps_their_type_in_the_gradient(dtype):
    (hidden, items, *_), targets = problem()
    short = hidden.detach().to(dtype).requires_grad_()
    loss = chunked_cross_entropy(short, items, targets)
    loss.backward()
    exact = plain(hidden, items, targets)
    assert loss.dtype == torch.float32 and short.grad.dtype == dtype
    assert abs(loss - exact) / exact < 0.01
    wanted = torch.autograd.grad(exact, hidden)[0]
    assert (short.grad.float() - wanted).norm() / wanted.norm() < 0.03


def test_fused_under_autocast_is_near_and_leaves_the_settings_alone():
    (hidden, items, bias, scale), targets = problem(n=300)
    precision = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(hidden, items, targets, 10 * bias, scale)
    mine, exact = torch.autograd.grad(loss, items)[0], plain(hidden, items, targets, 10 * bias, scale)
    assert torch.get_float32_matmul_precision() == precision
    assert loss.dtype == torch.float32 and abs(loss - exact) < 0.01
    wanted = torch.autograd.grad(exact, items)[0]
    assert (mine - wanted).norm() / wanted.norm() < 0.02


def test_fused_never_holds_the_logits():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            for x in out if isinstance(out, tuple | list) else (out,):
                self.numel = max(self.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
            return out

    (hidden, items, *_), targets = problem(n=2000, n_items=500)
    with Largest() as seen:
        chunked_cross_entropy(hidden, items, targets, chunk=50).backward()
    assert seen.numel == max(50 * 500, 2000 * 8)


def test_uninformed_loss_is_the_logarithm_of_the_catalogue():
    loss = chunked_cross_entropy(torch.zeros(5, 3), torch.randn(17, 3), torch.arange(5))
    assert loss.item() == pytest.approx(math.log(17), abs=1e-6)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 40]), "0 to 39"),
        (torch.tensor([-1, 0]), "0 to 39"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.tensor([0]), "one for each of 2"),
    ],
)
def test_bad_targets_are_an_error(targets, message):
    (_, items, *_), _ = problem()
    with pytest.raises(CrossrecError, match=message):
        chunked_cross_entropy(torch.ones(2, 8), items, targets)


def test_other_bad_input_is_an_error():
    (hidden, items, *_), targets = problem()
    with pytest.raises(CrossrecError, match="chunk=0"):
        chunked_cross_entropy(hidden, items, targets, chunk=0)
    with pytest.raises(CrossrecError, match="n_items"):
        chunked_cross_entropy(hidden, items[:, :3], targets)
    with pytest.raises(CrossrecError, match="negatives"):
        sampled_softmax(hidden, items, targets, torch.tensor([], dtype=torch.int64))
    with pytest.raises(CrossrecError, match="one shape"):
        info_nce(hidden, items)
    with pytest.raises(CrossrecError, match="coral"):
        coral(hidden, items[:1])


def test_sampled_sum_is_unbiased_for_any_q():
    torch.manual_seed(0)
    hidden, items, target = torch.randn(1, 4), torch.randn(30, 4) / 2, torch.tensor([3])
    q = torch.softmax(torch.randn(30), 0)
    picks = torch.multinomial(q, 4000 * 10, replacement=True).view(4000, 10)
    wish = (hidden @ items[target].T).item()
    sums = torch.stack([sampled_softmax(hidden, items, target, pick, q.log()) for pick in picks]).add(wish).exp()
    error = sums.std().item() / math.sqrt(len(picks))
    assert abs(sums.mean().item() - (hidden @ items.T).exp().sum().item()) < 4 * error


def test_large_sample_gives_the_gradient_of_the_catalogue():
    (hidden, items, bias, scale), targets = problem(size=0.5)
    q = torch.softmax(torch.randn(40), 0)
    picks = torch.multinomial(q, 40_000, replacement=True)
    loss, exact = sampled_softmax(hidden, items, targets, picks, q.log(), bias, scale), plain(
        hidden, items, targets, bias, scale
    )
    assert abs(loss - exact) < 0.02
    mine, wanted = (torch.autograd.grad(x, items)[0] for x in (loss, exact))
    assert (mine - wanted).norm() / wanted.norm() < 0.05


def test_sample_of_only_the_target_costs_nothing():
    (hidden, items, *_), _ = problem()
    assert sampled_softmax(hidden[:1], items, torch.tensor([5]), torch.tensor([5, 5])) == 0


def test_info_nce_is_cross_entropy_over_the_batch():
    torch.manual_seed(0)
    u, v = torch.randn(6, 5), torch.randn(6, 5)
    similar = F.cosine_similarity(u[:, None], v[None], dim=-1) / 0.2
    torch.testing.assert_close(info_nce(u, v, 0.2), F.cross_entropy(similar, torch.arange(6)))
    torch.testing.assert_close(info_nce(7 * u, v, 0.2), info_nce(u, v, 0.2))


def test_info_nce_leaves_false_negatives_out():
    u, v = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 1]]
    assert info_nce(u, v, 0.05).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-6)
    assert info_nce(u, v, 0.05, torch.tensor([9, 9, 4])) < 1e-6
    assert info_nce(u, v, 0.05, torch.tensor([1, 1, 1])) == 0


def test_clouds():
    torch.manual_seed(0)
    x, y = torch.randn(80, 3), torch.randn(60, 3)
    assert mmd(x, x).abs() < 1e-6 and coral(x, x) == 0
    assert mmd(x, y + 3) > 10 * mmd(x, y) > 0
    torch.testing.assert_close(coral(x, y + 3), coral(x, y))
    torch.testing.assert_close(mmd(x, y), mmd(y, x))
    same = torch.ones(4, 3).requires_grad_()
    mmd(same, x).backward()
    assert torch.isfinite(same.grad).all()


def test_coral_by_hand():
    x, y = torch.tensor([[-1.0, 0], [1, 0]]), torch.tensor([[0.0, -1], [0, 1]])
    assert coral(x, y).item() == pytest.approx((2**2 + 2**2) / (4 * 2**2))
