"""Attention against torch's kernels, and the properties that its masks promise, on odd shapes and types."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.attention import (
    attention,
    causal_mask,
    merge_heads,
    padding_mask,
    sinusoidal_positions,
    softmax,
    split_heads,
)
from crossrec.core import CrossrecError

few = settings(max_examples=30, deadline=None)
small = st.integers(1, 7)


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


@few
@given(seed=st.integers(0, 999), b=small, h=small, n=small, m=small, d=small, masked=st.booleans())
def test_equals_torchs_kernel(seed, b, h, n, m, d, masked):
    q, k, v = tensors(seed, (b, h, n, d), (b, h, m, d), (b, h, m, d + 1))
    mask = torch.ones(n, m, dtype=torch.bool).tril() if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attention(q, k, v, mask)[0], expected)


@few
@given(seed=st.integers(0, 999), b=small, n=small, heads=st.integers(1, 4), per_head=small)
def test_heads_equal_torchs_multi_head_attention(seed, b, n, heads, per_head):
    torch.manual_seed(seed)
    theirs = torch.nn.MultiheadAttention(heads * per_head, heads, batch_first=True)
    (x,) = tensors(seed, (b, n, heads * per_head))
    parts = F.linear(x, theirs.in_proj_weight, theirs.in_proj_bias).chunk(3, -1)
    mixed, _ = attention(*(split_heads(part, heads) for part in parts), causal_mask(n))
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(n))
    torch.testing.assert_close(theirs.out_proj(merge_heads(mixed)), expected, atol=1e-5, rtol=1e-4)


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 8), data=st.data())
def test_the_future_changes_nothing_earlier(seed, n, data):
    x, other = tensors(seed, (n, 4), (n, 4))
    cut = data.draw(st.integers(1, n - 1))
    changed = torch.cat([x[:cut], 100 * other[cut:]])
    before, after = (attention(y, y, y, causal_mask(n))[0] for y in (x, changed))
    torch.testing.assert_close(before[:cut], after[:cut])


@few
@given(seed=st.integers(0, 999), n=small, padding=st.integers(0, 5))
def test_padding_changes_nothing(seed, n, padding):
    x, noise = tensors(seed, (1, n, 4), (1, padding, 4))
    padded = torch.cat([x, 100 * noise], 1)
    mixed, weights = attention(padded, padded, padded, padding_mask(torch.tensor([n]), n + padding))
    torch.testing.assert_close(mixed[:, :n], attention(x, x, x)[0])
    assert weights[..., n:].sum() == 0


@few
@given(seed=st.integers(0, 999), n=small)
def test_without_positions_order_does_not_matter(seed, n):
    (x,) = tensors(seed, (n, 4))
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(attention(x[shuffle], x[shuffle], x[shuffle])[0], attention(x, x, x)[0][shuffle])


@few
@given(seed=st.integers(0, 999), n=small, shift=st.floats(-1e4, 1e4))
def test_softmax_sums_to_one_and_ignores_a_shift(seed, n, shift):
    (scores,) = tensors(seed, (3, n))
    scores = scores.double()
    torch.testing.assert_close(softmax(scores).sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(softmax(scores + shift), softmax(scores), atol=1e-9, rtol=1e-6)


def test_a_row_that_may_see_nothing_gets_zeros_and_finite_gradients():
    (x,) = tensors(0, (2, 3))
    x.requires_grad_()
    mixed, weights = attention(x, x, x, torch.tensor([[False, False], [True, True]]))
    mixed.sum().backward()
    assert mixed[0].abs().sum() == 0 and weights[0].sum() == 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(dtype):
    q, k, v = tensors(0, (2, 5, 8), (2, 5, 8), (2, 5, 8))
    mixed, _ = attention(q.to(dtype), k.to(dtype), v.to(dtype), causal_mask(5))
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.float(), attention(q, k, v, causal_mask(5))[0], atol=0.05, rtol=0.05)


def test_non_contiguous_input():
    x = tensors(0, (8, 5, 2))[0].permute(2, 1, 0)
    torch.testing.assert_close(split_heads(x, 4), split_heads(x.contiguous(), 4))
    torch.testing.assert_close(attention(x, x, x)[0], attention(*(x.contiguous(),) * 3)[0])
    assert torch.equal(merge_heads(split_heads(x, 4)), x)


def test_golden_history_by_hand():
    x = torch.tensor([[2.0, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 2]])
    _, weights = attention(x, x, x)
    powers = torch.tensor([2.0, 4.0, 0.0]).exp()
    torch.testing.assert_close(weights[1], powers / powers.sum())


def test_sinusoidal_positions_depend_on_distance_only():
    p = sinusoidal_positions(40, 16).double()
    table = p @ p.T
    for distance in (0, 1, 7, 39):
        assert table.diagonal(distance).std(correction=0) < 1e-5
    torch.testing.assert_close(p[0], torch.tensor([0.0, 1.0] * 8, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3)),
        lambda: attention(torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 3)),
        lambda: split_heads(torch.ones(1, 2, 5), 2),
        lambda: padding_mask(torch.tensor([3]), 2),
        lambda: padding_mask(torch.tensor([-1]), 2),
        lambda: sinusoidal_positions(3, 7),
    ],
)
def test_bad_input_is_an_error(call):
    with pytest.raises(CrossrecError, match="found .*; expected "):
        call()
