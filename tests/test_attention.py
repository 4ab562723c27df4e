"""Attention against torch's kernels, and the properties that its masks promise, on odd shapes and types."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.attention import (
    attention,
    causal_mask,
    chunked_attention,
    merge_heads,
    padding_mask,
    rotate,
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


@pytest.mark.parametrize("way", [attention, chunked_attention])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(way, dtype):
    q, k, v = (part.to(dtype) for part in tensors(0, (2, 5, 8), (2, 5, 8), (2, 5, 8)))
    found = way(q, k, v, causal_mask(5))
    mixed = found[0] if way is attention else found
    assert mixed.dtype == dtype
    exact = attention(q.double(), k.double(), v.double(), causal_mask(5))[0]
    torch.testing.assert_close(mixed.double(), exact, atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("way", [lambda *a: attention(*a)[0], chunked_attention])
def test_scores_beyond_sixteen_bits_do_not_overflow(way):
    q = torch.full((2, 3, 64), 60.0, dtype=torch.float16)  # every dot product is 230,400; float16 ends at 65,504
    v = tensors(0, (2, 3, 64))[0].half()
    torch.testing.assert_close(way(q, q, v), v.float().mean(1, keepdim=True).half().expand(2, 3, 64))


@few
@given(seed=st.integers(0, 999), n=small, m=small, d=small, chunk=st.integers(1, 8), kind=st.sampled_from("acmb"))
def test_chunks_make_no_difference_to_values_or_gradients(seed, n, m, d, chunk, kind):
    inputs = tensors(seed, (2, 3, n, d), (2, 3, m, d), (2, 3, m, d + 1))
    mask = {"a": None, "c": torch.ones(n, m, dtype=torch.bool).tril()}.get(kind)
    if kind in "mb":  # a full mask, or one that broadcasts over queries; rows that see nothing are among them
        mask = tensors(seed + 1, (2, 1, n if kind == "m" else 1, m))[0] > 0
    found = []
    for chunked in (False, True):
        leaves = [part.clone().requires_grad_() for part in inputs]
        arguments = (None, True) if kind == "c" else (mask, False)
        out = chunked_attention(*leaves, *arguments, chunk) if chunked else attention(*leaves, mask)[0]
        (out * torch.arange(1.0, d + 2)).sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for full, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, full, atol=1e-5, rtol=1e-5)


@few
@given(seed=st.integers(0, 999), n=small, m=small, d=small)
def test_gradients_are_those_derived_by_hand(seed, n, m, d):
    q, k, v, g = tensors(seed, (n, d), (m, d), (m, d), (n, d))
    leaves = [part.double().requires_grad_() for part in (q, k, v)]
    out, a = attention(*leaves)
    out.backward(g.double())
    q, k, v, a, g = q.double(), k.double(), v.double(), a.detach(), g.double()
    upstream = g @ v.T
    ds = a * (upstream - (g * out.detach()).sum(1, keepdim=True))
    for leaf, by_hand in zip(leaves, (ds @ k / math.sqrt(d), ds.T @ q / math.sqrt(d), a.T @ g), strict=True):
        torch.testing.assert_close(leaf.grad, by_hand)


@few
@given(seed=st.integers(0, 999), n=small, d=small, scale=st.floats(0.1, 10))
def test_kernel_regression_is_attention_where_keys_have_one_length(seed, n, d, scale):
    q, k, v = (part.double() for part in tensors(seed, (3, d), (n, d), (n, 2)))
    k = scale * F.normalize(k, dim=1)
    bell = (-torch.cdist(q, k).square() / (2 * math.sqrt(d))).exp()
    regression = bell / bell.sum(1, keepdim=True) @ v
    torch.testing.assert_close(attention(q, k, v)[0], regression, atol=1e-6, rtol=1e-6)


@few
@given(seed=st.integers(0, 999), s=st.integers(0, 300), t=st.integers(0, 300), move=st.integers(0, 300), half=small)
def test_rotary_scores_know_only_the_distance(seed, s, t, move, half):
    q, k = (part.double() for part in tensors(seed, (1, 2 * half), (1, 2 * half)))

    def score(a, b):
        return (rotate(q, start=a) @ rotate(k, start=b).T).item()

    assert score(s, t) == pytest.approx(score(s + move, t + move), abs=1e-3)
    assert rotate(q, start=s).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
    torch.testing.assert_close(rotate(q), q)  # position 0 is not turned


@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
def test_rotary_equals_llamas(base):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        hidden_size=32, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": base}
    )
    q, k = tensors(0, (1, 2, 50, 16), (1, 2, 50, 16))
    cosine, sine = LlamaRotaryEmbedding(config)(q, torch.arange(50)[None])
    expected = apply_rotary_pos_emb(q, k, cosine, sine)
    for ours, theirs in zip((rotate(q, base), rotate(k, base)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_rotation_of_a_part_is_a_part_of_the_rotation():
    (x,) = tensors(0, (2, 9, 8))
    torch.testing.assert_close(rotate(x)[:, 4:], rotate(x[:, 4:], start=4))
    assert rotate(x.half()).dtype == torch.float16
    torch.testing.assert_close(rotate(x.mT.contiguous().mT), rotate(x))


@pytest.mark.parametrize("way", [lambda *a: attention(*a)[0], chunked_attention])
def test_nothing_to_look_at_gives_zeros(way):
    q, none = torch.ones(2, 3, 4, requires_grad=True), torch.ones(2, 0, 4)
    assert torch.equal(way(q, none, none), torch.zeros(2, 3, 4))
    forbidden = way(q, q, q, torch.zeros(3, 3, dtype=torch.bool))
    forbidden.sum().backward()
    assert torch.equal(forbidden, torch.zeros(2, 3, 4)) and torch.equal(q.grad, torch.zeros(2, 3, 4))


@pytest.mark.parametrize("way", [lambda *a: attention(*a)[0], chunked_attention])
def test_one_position_gets_its_own_value(way):
    q, v = tensors(0, (2, 1, 4), (2, 1, 3))
    torch.testing.assert_close(way(q, q, v, causal_mask(1)), v)


def test_non_contiguous_input():
    x = tensors(0, (8, 5, 2))[0].permute(2, 1, 0)
    torch.testing.assert_close(split_heads(x, 4), split_heads(x.contiguous(), 4))
    torch.testing.assert_close(attention(x, x, x)[0], attention(*(x.contiguous(),) * 3)[0])
    torch.testing.assert_close(chunked_attention(x, x, x, causal=True, chunk=2), attention(x, x, x, causal_mask(5))[0])
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
        lambda: attention(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 2)),
        lambda: attention(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2, dtype=torch.bool)),
        lambda: chunked_attention(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3)),
        lambda: rotate(torch.ones(3, 5)),
        lambda: split_heads(torch.ones(1, 2, 5), 2),
        lambda: padding_mask(torch.tensor([3]), 2),
        lambda: padding_mask(torch.tensor([-1]), 2),
        lambda: sinusoidal_positions(3, 7),
    ],
)
def test_bad_input_is_an_error(call):
    with pytest.raises(CrossrecError, match="found .*; expected "):
        call()


def test_a_mask_for_rows_is_not_taken_for_one_of_heads():
    q = torch.randn(2, 2, 4, 3)
    mask = padding_mask(torch.tensor([4, 2]), 4)
    with pytest.raises(CrossrecError, match=r"\[:, None\]"):
        attention(q, q, q, mask)
    assert torch.equal(attention(q, q, q, mask[:, None])[1][1, :, :, 2:], torch.zeros(2, 4, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3, dtype=torch.long)),
        lambda: attention(torch.ones(2, 0), torch.ones(2, 0), torch.ones(2, 3)),
        lambda: attention(torch.ones(2, 2, 3), torch.ones(3, 2, 3), torch.ones(3, 2, 3)),
        lambda: chunked_attention(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), chunk=0),
        lambda: rotate(torch.ones(2, 4), start=-1),
        lambda: rotate(torch.ones(2, 4), base=0.0),
        lambda: rotate(torch.ones(2, 4, dtype=torch.long)),
        lambda: split_heads(torch.ones(2, 4), 2),
    ],
)
def test_odd_input_is_an_error(call):
    with pytest.raises(CrossrecError):
        call()


def test_many_equal_scores_of_16_bits_share_the_weight():
    assert softmax(torch.zeros(65_600, dtype=torch.float16)).float().sum() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("way", [lambda q, k, v: attention(q, k, v)[0], chunked_attention])
def test_sums_beyond_16_bits(way):
    q = torch.full((2, 3, 64), 200.0, dtype=torch.float16)  # 200 * 200 * 64 / 8 is past 65,504 even when divided
    v = torch.randn(2, 3, 64).half()
    torch.testing.assert_close(way(q, q, v), v.float().mean(1, keepdim=True).half().expand(2, 3, 64))


def test_rotary_keeps_the_precision_of_64_bits():
    q, k = torch.randn(1, 64, dtype=torch.float64), torch.randn(1, 64, dtype=torch.float64)
    near, far = (rotate(q, start=s) @ rotate(k, start=s + 2).T for s in (0, 1_000_000))
    torch.testing.assert_close(near, far, atol=1e-8, rtol=0)
