"""Losses against plain torch, in value and gradient; the sample against the catalogue; clouds."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.losses import (
    adversarial,
    chunked_cross_entropy,
    coral,
    domain_classifier,
    info_nce,
    mmd,
    reversal_strength,
    reverse_gradient,
    sampled_softmax,
)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_sums_in_32_bits_whatever_comes_in(dtype):
    torch.manual_seed(0)
    hidden, items = torch.randn(200, 16).to(dtype), (2 * torch.randn(300, 16)).to(dtype)
    targets = torch.randint(0, 300, (200,))
    inputs = [x.double().requires_grad_() for x in (hidden, items)]
    exact = plain(*inputs, targets)
    ours = [x.float().requires_grad_() for x in (hidden, items)]
    loss = chunked_cross_entropy(ours[0].to(dtype), ours[1], targets, chunk=64)
    assert abs(loss.double() - exact) < 1e-5
    mine, wanted = torch.autograd.grad(loss, ours[1])[0], torch.autograd.grad(exact, inputs[1])[0]
    assert (mine - wanted).norm() / wanted.norm() < 5e-3  # the probabilities are rounded in products, never in sums


def test_fused_takes_views_of_any_stride():
    torch.manual_seed(0)
    hidden = torch.randn(8, 140).T[::2].requires_grad_()  # [70, 8], neither axis contiguous
    items = torch.randn(80, 16)[::2, ::2].requires_grad_()
    targets = torch.randint(0, 40, (140,))[::2]
    assert not (hidden.is_contiguous() or items.is_contiguous() or targets.is_contiguous())
    ours, theirs = chunked_cross_entropy(hidden, items, targets, chunk=16), plain(hidden, items, targets)
    torch.testing.assert_close(ours, theirs)
    for mine, wanted in zip(*(torch.autograd.grad(x, (hidden, items)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_bias_of_minus_infinity_takes_items_out():
    (hidden, items, bias, _), targets = problem(n_items=40)
    targets %= 30
    masked = bias.detach().masked_fill(torch.arange(40) >= 30, -torch.inf).requires_grad_()
    ours, theirs = chunked_cross_entropy(hidden, items, targets, masked), plain(hidden, items[:30], targets, bias[:30])
    torch.testing.assert_close(ours, theirs)
    mine, wanted = torch.autograd.grad(ours, (items, masked)), torch.autograd.grad(theirs, (items, bias))
    for got, want in zip(mine, wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_nan_in_is_nan_out():
    (hidden, items, *_), targets = problem()
    broken = hidden.detach().clone()
    broken[3, 2] = torch.nan
    assert chunked_cross_entropy(broken, items, targets).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_never_holds_the_logits(dtype):
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
        chunked_cross_entropy(hidden.to(dtype), items.to(dtype), targets, chunk=50).backward()
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
    with pytest.raises(CrossrecError, match="negatives from 0 to 40"):
        sampled_softmax(hidden, items, targets, torch.tensor([0, 40]))
    with pytest.raises(CrossrecError, match="log_q of each item"):
        sampled_softmax(hidden, items, targets, torch.tensor([0, 1]), torch.zeros(2))
    with pytest.raises(CrossrecError, match="one shape"):
        info_nce(hidden, items)
    with pytest.raises(CrossrecError, match="temperature 0"):
        info_nce(hidden, hidden, 0.0)
    for name in ("ids", "users", "log_q"):
        with pytest.raises(CrossrecError, match=name):
            info_nce(hidden, hidden, **{name: torch.arange(3)})
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


def slow_info_nce(queries, keys, temperature, ids, users, log_q):
    """The definition, one row at a time."""
    n, total = len(queries), 0.0
    similar = F.cosine_similarity(queries[:, None].double(), keys[None].double(), dim=-1) / temperature
    for i in range(n):
        taken = {ids[j] for j in range(n) if users[j] == users[i]}
        weights = [similar[i, i].exp()]
        for j in range(n):
            if ids[j] not in taken:
                weights.append(similar[i, j].exp() / ((n - 1) * math.exp(log_q[j]) if log_q is not None else 1))
        total += torch.stack(weights).sum().log() - similar[i, i]
    return total / n


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 9), corrected=st.booleans(), seed=st.integers(0, 99))
def test_info_nce_equals_the_definition(data, n, corrected, seed):
    ids, users = (data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) for _ in range(2))
    torch.manual_seed(seed)
    u, v, log_q = torch.randn(n, 5), torch.randn(n, 5), torch.rand(n).log() if corrected else None
    ours = info_nce(u, v, 0.3, torch.tensor(ids), torch.tensor(users), log_q)
    wanted = slow_info_nce(u, v, 0.3, ids, users, None if log_q is None else log_q.tolist())
    torch.testing.assert_close(ours.double(), torch.as_tensor(wanted), atol=1e-5, rtol=1e-5)
    # without ids every key is something else, without users every query is somebody else
    each = list(range(n))
    torch.testing.assert_close(info_nce(u, v, 0.3, users=torch.tensor(users)),
                               torch.as_tensor(slow_info_nce(u, v, 0.3, each, users, None)).float())
    torch.testing.assert_close(info_nce(u, v, 0.3, torch.tensor(ids)),
                               torch.as_tensor(slow_info_nce(u, v, 0.3, ids, each, None)).float())


def test_info_nce_with_log_q_is_sampled_softmax_over_the_other_rows():
    torch.manual_seed(0)
    q, vectors = torch.rand(12).softmax(0), F.normalize(torch.randn(12, 4), dim=1)
    states, ids = F.normalize(torch.randn(20, 4), dim=1), torch.randint(0, 12, (20,))
    rows = [
        sampled_softmax(states[[i]], vectors, ids[[i]], torch.cat([ids[:i], ids[i + 1 :]]), q.log(), scale=4.0)
        for i in range(20)
    ]
    torch.testing.assert_close(info_nce(states, vectors[ids], 0.25, ids, log_q=q.log()[ids]), torch.stack(rows).mean())


def test_logits_are_not_rounded_under_autocast():
    (hidden, items, *_), targets = problem(size=3.0)
    with torch.autocast("cpu", torch.bfloat16):
        short = sampled_softmax(hidden, items, targets, torch.arange(40)), info_nce(hidden[:40], items, 0.05)
    torch.testing.assert_close(short[0], sampled_softmax(hidden, items, targets, torch.arange(40)))
    torch.testing.assert_close(short[1], info_nce(hidden[:40], items, 0.05))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_losses_take_short_floats_and_give_32_bits(dtype):
    (hidden, items, *_), targets = problem()
    h, e = hidden.detach().to(dtype).requires_grad_(), items.detach().to(dtype)
    judge = domain_classifier(8).to(dtype)
    losses = (sampled_softmax(h, e, targets, torch.arange(40)), info_nce(h[:40], e), mmd(h, e), coral(h, e),
              adversarial(h, e, judge))
    for loss in losses:
        (grad,) = torch.autograd.grad(loss, h)
        assert loss.dtype == torch.float32 and loss.isfinite() and grad.dtype == dtype and grad.isfinite().all()
    torch.testing.assert_close(losses[3], coral(h.float(), e.float()))
    torch.testing.assert_close(losses[2], mmd(h.float(), e.float()))


def test_mmd_by_hand():
    widths = (0.25, 0.5, 1, 2, 4)
    wanted = 2 - 2 * sum(math.exp(-4 / (2 * w**2)) for w in widths) / 5
    assert mmd(torch.zeros(2, 1), torch.full((2, 1), 2.0), 1.0).item() == pytest.approx(wanted, rel=1e-6)


def test_clouds_under_autocast_are_summed_in_32_bits():
    torch.manual_seed(0)
    x, y = torch.randn(80, 3), torch.randn(60, 3) * 2
    with torch.autocast("cpu", torch.bfloat16):
        short = mmd(x, y), coral(x, y)
    torch.testing.assert_close(short, (mmd(x, y), coral(x, y)))


@given(strength=st.floats(0, 5, width=32))
def test_reversal_changes_the_gradient_and_nothing_else(strength):
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    weights = torch.tensor([[2.0, 1.0], [0.0, -1.0]])
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    (y * weights).sum().backward()
    torch.testing.assert_close(x.grad, -strength * weights)


def test_adversarial_pushes_the_classifier_and_the_vectors_apart():
    torch.manual_seed(0)
    x, y, judge = torch.randn(30, 4), torch.randn(50, 4) + 1, domain_classifier(4)
    x.requires_grad_()
    loss = adversarial(x, y, judge, 0.5)
    labels = torch.cat([torch.zeros(30), torch.ones(50)])
    weight = torch.cat([torch.full((30,), 1 / 60), torch.full((50,), 1 / 100)])
    wanted = F.binary_cross_entropy_with_logits(judge(torch.cat([x, y]))[:, 0], labels, weight, reduction="sum")
    torch.testing.assert_close(loss, wanted)
    inputs = [x, *judge.parameters()]
    mine, plainly = torch.autograd.grad(loss, inputs), torch.autograd.grad(wanted, inputs)
    torch.testing.assert_close(mine[0], -0.5 * plainly[0])
    torch.testing.assert_close(mine[1:], plainly[1:])
    assert adversarial(x, y, lambda z: torch.zeros(len(z), 1)).item() == pytest.approx(math.log(2))
    with pytest.raises(CrossrecError, match="one for each point"):
        adversarial(x, y, torch.nn.Linear(4, 3))


def test_adversarial_training_makes_clouds_hard_to_tell_apart():
    torch.manual_seed(0)
    x, y = torch.randn(100, 2), torch.randn(100, 2) + 3
    shift, judge = torch.zeros(2, requires_grad=True), domain_classifier(2, 16)
    groups = [{"params": [shift], "lr": 0.02}, {"params": judge.parameters(), "lr": 0.05}]
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.9))
    for step in range(400):
        optimizer.zero_grad()
        adversarial(x, y + shift, judge, reversal_strength(step / 400)).backward()
        optimizer.step()
    assert (y + shift - x.mean(0)).mean(0).norm() < 0.5 < (y - x.mean(0)).mean(0).norm()


def test_reversal_strength_is_the_curve_of_the_paper():
    assert reversal_strength(0) == 0
    assert reversal_strength(0.2) == pytest.approx(2 / (1 + math.exp(-2)) - 1)
    assert 0.9999 < reversal_strength(1) < 1
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(CrossrecError, match="0 to 1"):
            reversal_strength(wrong)


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


def test_a_bias_of_minus_infinity_outweighs_any_logit():
    hidden, items = torch.tensor([[200.0]]), torch.tensor([[100.0], [1.0]])
    bias = torch.tensor([-torch.inf, 0.0])
    assert chunked_cross_entropy(hidden, items, torch.tensor([1]), bias).item() == 0
    low = torch.tensor([-2e4, -2e4 - 1, -3e4])
    found = chunked_cross_entropy(torch.zeros(1, 1), torch.zeros(3, 1), torch.tensor([0]), low)
    assert found.item() == pytest.approx(math.log1p(math.exp(-1)), abs=1e-5)
    with pytest.raises(CrossrecError, match="bias of -inf"):
        chunked_cross_entropy(hidden, items, torch.tensor([0]), bias)
    with pytest.raises(CrossrecError, match="bias of shape"):
        chunked_cross_entropy(hidden, items, torch.tensor([0]), bias[:1])


def test_a_gradient_of_the_gradient_is_refused_not_forgotten():
    (hidden, items, _, _), targets = problem()
    with pytest.raises(CrossrecError, match="create_graph"):
        torch.autograd.grad(chunked_cross_entropy(hidden, items, targets), hidden, create_graph=True)


def test_states_of_zero_have_finite_gradients():
    queries = torch.zeros(4, 8, requires_grad=True)
    info_nce(queries, torch.randn(4, 8)).backward()
    assert 0 < queries.grad.abs().max() < 100


def test_mmd_takes_the_median_distance_as_bandwidth():
    x, y = torch.zeros(2, 1), torch.full((3, 1), 2.0).requires_grad_()
    median = torch.cdist(torch.cat([x, y]), torch.cat([x, y])).square().median().sqrt().item()
    assert median == 0 or mmd(x, y).item() == pytest.approx(mmd(x, y, median).item(), rel=1e-6)
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), (5 * torch.randn(6, 3)).requires_grad_()
    distances = torch.cdist(torch.cat([x, y]), torch.cat([x, y])).square().detach()
    value, fixed = mmd(x, y), mmd(x, y, distances.median().sqrt().item())
    assert distances.median() != pytest.approx(distances.mean().item(), rel=0.05)
    torch.testing.assert_close(value, fixed)
    # the width is a constant: no gradient goes through it
    torch.testing.assert_close(*(torch.autograd.grad(loss, y)[0] for loss in (value, fixed)))
    with pytest.raises(CrossrecError, match="above 0"):
        mmd(x, y, 0.0)


@pytest.mark.parametrize("change", [{"negatives": torch.tensor([1], dtype=torch.uint8)}, {"bias": torch.zeros(99)}])
def test_a_sample_is_checked(change):
    (hidden, items, _, _), targets = problem()
    with pytest.raises(CrossrecError, match="sampled_softmax"):
        sampled_softmax(hidden, items, targets, **({"negatives": torch.tensor([1])} | change))
