"""The encoder's promises: causal, blind to padding, zero at first, the same under autocast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.attention import attention, causal_mask, merge_heads, split_heads
from crossrec.core import CrossrecError
from crossrec.transformer import Block, CausalEncoder, SelfAttention

few = settings(max_examples=20, deadline=None)


def encoder(seed: int = 0, **settings) -> CausalEncoder:
    """A small encoder in evaluation mode whose parts all matter: large weights, no zero layer."""
    torch.manual_seed(seed)
    made = CausalEncoder(**{"width": 8, "max_length": 12, "zero_init": False} | settings).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 12), data=st.data())
def test_the_future_changes_nothing_earlier(seed, n, data):
    cut = data.draw(st.integers(1, n - 1))
    model, x = encoder(seed), torch.randn(2, n, 8)
    changed = torch.cat([x[:, :cut], 10 * torch.randn(2, n - cut, 8)], 1)
    torch.testing.assert_close(model(x)[:, :cut], model(changed)[:, :cut], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(x)[:, cut:], model(changed)[:, cut:])


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 8), padding=st.integers(0, 4))
def test_padding_changes_nothing_and_gets_zero(seed, n, padding):
    model, x = encoder(seed), torch.randn(2, n, 8)
    padded = torch.cat([x, 99 * torch.ones(2, padding, 8)], 1)
    out = model(padded, torch.tensor([n, n]))
    torch.testing.assert_close(out[:, :n], model(x), atol=1e-5, rtol=1e-4)
    assert out[:, n:].abs().sum() == 0


def test_order_matters_because_of_positions():
    model, x = encoder(), torch.randn(1, 4, 8)
    assert not torch.allclose(model(x)[0, -1], model(x[:, [1, 0, 2, 3]])[0, -1], atol=1e-4)


def test_self_attention_is_the_plain_formula():
    torch.manual_seed(0)
    layer, x = SelfAttention(12, 3), torch.randn(2, 7, 12)
    for mask in (None, torch.ones(7, 7, dtype=torch.bool), torch.rand(2, 1, 7, 7) < 0.7):
        parts = [split_heads(part, 3) for part in layer.qkv(x).chunk(3, -1)]
        plain, _ = attention(*parts, causal_mask(7) if mask is None else mask)
        torch.testing.assert_close(layer(x, mask), layer.out(merge_heads(plain)))


def test_block_equals_torchs_pre_norm_layer():
    torch.manual_seed(0)
    ours = Block(width=12, heads=3, dropout=0.0)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight,
        "self_attn.in_proj_bias": ours.attention.qkv.bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        "linear1.weight": ours.widen.weight,
        "linear1.bias": ours.widen.bias,
        "linear2.weight": ours.narrow.weight,
        "linear2.bias": ours.narrow.bias,
    }
    theirs.load_state_dict(pairs, strict=False)  # what is left are the norms, 1 and 0 in both
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=~causal_mask(5)), atol=1e-5, rtol=1e-4)


def test_untrained_it_adds_nothing_and_still_learns():
    torch.manual_seed(0)
    model, x = CausalEncoder(8), torch.randn(3, 5, 8)
    assert model(x).abs().max() == 0
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert model(x).abs().max() > 0


def test_branches_are_scaled_by_depth():
    torch.manual_seed(0)
    model = CausalEncoder(64, layers=8, zero_init=False)
    for block in model.blocks:
        assert block.widen.weight.std().item() == pytest.approx(0.02, rel=0.05)
        for entry in (block.attention.out, block.narrow):
            assert entry.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
            assert entry.bias.abs().sum() == 0
    assert model.last.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_autocast_gives_nearly_the_same_with_gradients():
    model, x = encoder(), torch.randn(4, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, torch.tensor([9, 4, 1, 7]))
    out.float().square().mean().backward()
    full = model(x, torch.tensor([9, 4, 1, 7]))
    assert (out.float() - full).norm() / full.norm() < 0.03
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_only_in_training():
    model, x = encoder(dropout=0.5), torch.randn(1, 5, 8)
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_saves_and_loads_strictly():
    first, second = encoder(1), encoder(2)
    second.load_state_dict(first.state_dict(), strict=True)
    x = torch.randn(1, 4, 8)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("shape", [(1, 13, 8), (1, 3, 9), (3, 8)])
def test_histories_that_do_not_fit_are_an_error(shape):
    with pytest.raises(CrossrecError, match="CausalEncoder"):
        encoder()(torch.ones(shape))


def test_other_bad_input_is_an_error():
    with pytest.raises(CrossrecError, match="one length a row"):
        encoder()(torch.ones(2, 3, 8), torch.tensor([1]))
    with pytest.raises(CrossrecError, match="heads"):
        CausalEncoder(width=10, heads=3)
