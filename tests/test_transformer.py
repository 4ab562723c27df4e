"""Blocks against torch and transformers; the encoders' promises: causal, blind to padding, zero at first."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.attention import attention, causal_mask, merge_heads, split_heads
from crossrec.core import CrossrecError
from crossrec.transformer import (
    BERT,
    GPT,
    LLAMA,
    Block,
    CausalEncoder,
    SeedTransformer,
    SelfAttention,
    Style,
    attention_maps,
    draw_small_weights,
)

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


@pytest.mark.parametrize("style", [GPT, Style(pre_norm=False)])
def test_block_equals_torchs_layer(style):
    torch.manual_seed(0)
    ours = Block(width=12, heads=3, dropout=0.0, style=style)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=style.pre_norm)
    pairs = {"self_attn.in_proj": ours.attention.qkv, "self_attn.out_proj": ours.attention.out, "linear1": ours.widen,
             "linear2": ours.narrow, "norm1": ours.norm_attention, "norm2": ours.norm_feed_forward}  # fmt: skip
    for norm in (ours.norm_attention, ours.norm_feed_forward):
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    weights = {}
    for name, part in pairs.items():
        for kind in ("weight", "bias"):
            weights[f"{name}{'_' if 'in_proj' in name else '.'}{kind}"] = getattr(part, kind)
    theirs.load_state_dict(weights)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=~causal_mask(5)), atol=1e-5, rtol=1e-4)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])  # torch marks what is forbidden
    everyone, expected = ours(x, ~padding[:, None, None]), theirs(x, src_key_padding_mask=padding)
    torch.testing.assert_close(everyone[~padding], expected[~padding], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_block_equals_llamas_layer(key_heads):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=6, num_key_value_heads=key_heads,
                         attn_implementation="eager")  # fmt: skip
    theirs = LlamaDecoderLayer(config, 0).eval()
    ours = Block(24, 6, 0.0, 40 / 24, replace(LLAMA, key_heads=key_heads, eps=config.rms_norm_eps)).eval()
    for norm in (theirs.input_layernorm, theirs.post_attention_layernorm):
        torch.nn.init.normal_(norm.weight)
    w = theirs.state_dict()
    ours.load_state_dict({
        "attention.qkv.weight": torch.cat([w[f"self_attn.{part}_proj.weight"] for part in "qkv"]),
        "attention.out.weight": w["self_attn.o_proj.weight"], "gate.weight": w["mlp.gate_proj.weight"],
        "widen.weight": w["mlp.up_proj.weight"], "narrow.weight": w["mlp.down_proj.weight"],
        "norm_attention.weight": w["input_layernorm.weight"],
        "norm_feed_forward.weight": w["post_attention_layernorm.weight"],
    })  # fmt: skip
    x = torch.randn(2, 7, 24)
    forbidden = torch.zeros(7, 7).masked_fill(~causal_mask(7), -torch.inf)[None, None]
    turns = LlamaRotaryEmbedding(config)(x, torch.arange(7)[None])
    expected = theirs(x, attention_mask=forbidden, position_embeddings=turns)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


def test_shared_keys_are_keys_said_twice():
    torch.manual_seed(0)
    shared, full, x = SelfAttention(12, 6, key_heads=2), SelfAttention(12, 6), torch.randn(2, 5, 12)
    q, k, v = shared.qkv.weight.split([12, 4, 4])
    each = [part.view(2, 2, 12).repeat_interleave(3, 0).flatten(0, 1) for part in (k, v)]
    full.qkv.weight.data, full.qkv.bias.data = torch.cat([q, *each]), torch.zeros(36)
    full.out.load_state_dict(shared.out.state_dict())
    torch.nn.init.zeros_(shared.qkv.bias)
    torch.testing.assert_close(shared(x), full(x))
    torch.testing.assert_close(shared.weights(x), full.weights(x))


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 8), style=st.sampled_from([GPT, BERT, LLAMA]), data=st.data())
def test_no_style_sees_the_future(seed, n, style, data):
    torch.manual_seed(seed)
    cut = data.draw(st.integers(1, n - 1))
    block, x = Block(12, 3, 0.0, style=style), torch.randn(2, n, 12)
    changed = torch.cat([x[:, :cut], 10 * torch.randn(2, n - cut, 12)], 1)
    torch.testing.assert_close(block(x)[:, :cut], block(changed)[:, :cut], atol=1e-5, rtol=1e-4)


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 8), style=st.sampled_from([GPT, BERT, replace(GPT, gated=True)]))
def test_without_positions_order_does_not_matter(seed, n, style):
    torch.manual_seed(seed)
    block, x, shuffle = Block(12, 3, 0.0, style=style), torch.randn(2, n, 12), torch.randperm(n)
    everywhere = torch.ones(n, n, dtype=torch.bool)
    found = block(x[:, shuffle], everywhere)
    torch.testing.assert_close(found, block(x, everywhere)[:, shuffle], atol=1e-5, rtol=1e-4)


def test_rotary_positions_make_order_matter():
    torch.manual_seed(0)
    block, x = Block(12, 3, 0.0, style=LLAMA), torch.randn(1, 4, 12)
    everywhere = torch.ones(4, 4, dtype=torch.bool)
    assert not torch.allclose(block(x.flip(1), everywhere), block(x, everywhere).flip(1), atol=1e-3)


@pytest.mark.parametrize("style", [GPT, BERT, LLAMA])
def test_odd_inputs(style):
    torch.manual_seed(0)
    block, x = Block(12, 3, 0.0, style=style), torch.randn(12, 5, 2)
    turned = x.permute(2, 1, 0)  # not contiguous
    torch.testing.assert_close(block(turned), block(turned.contiguous()))
    assert block(turned[:, :1]).shape == (2, 1, 12)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False  # position 2 may see nothing
    out = block(turned, mask)
    out.sum().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(p.grad).all() for p in block.parameters())
    assert block.weights(turned, mask)[:, :, 2].abs().sum() == 0
    for dtype in (torch.bfloat16, torch.float16):
        narrow = block.to(dtype)(turned.to(dtype))
        assert narrow.dtype == dtype
        torch.testing.assert_close(narrow.float(), block.float()(turned), atol=0.1, rtol=0.1)


def test_attention_maps_are_those_of_each_block():
    model, x = encoder(layers=3, heads=2), torch.randn(2, 5, 8)
    stream = x + model.positions[:5]
    maps = attention_maps(model.blocks, stream)
    assert maps.shape == (3, 2, 2, 5, 5) and maps.triu(1).abs().sum() == 0
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 2, 5))
    second = model.blocks[1]
    parts = second.attention.project(second.norm_attention(model.blocks[0](stream)))
    mixed = second.attention.out(merge_heads(maps[1] @ parts[2]))
    torch.testing.assert_close(mixed, second.attention(second.norm_attention(model.blocks[0](stream))))


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 8), later=st.integers(0, 4))
def test_the_plain_model_is_a_mean_that_never_looks_ahead(seed, n, later):
    torch.manual_seed(seed)
    model = SeedTransformer(9, width=8, inner=12).eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    items = torch.randint(9, (2, n + later))
    whole, alone = model(items), model(items[:, :n])
    torch.testing.assert_close(whole[:, :n], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone[:, -1], model.block(model.embedding(items[:, :n])).mean(1), atol=1e-5, rtol=1e-4)


def test_the_plain_model_has_the_sizes_that_it_claims():
    model = SeedTransformer(50)
    d = 128  # vectors, attention, feed-forward of 128, two norms, and the softmax over items
    assert sum(p.numel() for p in model.parameters()) == (
        50 * d + (4 * d * d + 4 * d) + (2 * d * d + 2 * d) + 4 * d + (50 * d + 50)
    )
    assert model.block.attention.heads == 2


def test_small_weights_leave_models_without_biases_alone():
    torch.manual_seed(0)
    block = Block(64, 4, style=LLAMA)
    draw_small_weights(block)
    assert block.gate.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert {name for name, p in block.named_parameters() if p.ndim == 1} == {
        "norm_attention.weight",
        "norm_feed_forward.weight",
    }


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
    with pytest.raises(CrossrecError, match="heads of keys 4"):
        SelfAttention(12, 6, key_heads=4)
    with pytest.raises(CrossrecError, match="even width"):
        SelfAttention(6, 2, rotary=10_000.0)(torch.ones(1, 2, 6))


@pytest.mark.parametrize("mask", [torch.ones(4, 4).tril(), torch.ones(2, 1, 4) > 0, torch.ones(5, 5) > 0])
def test_a_block_refuses_masks_that_mean_something_else(mask):
    with pytest.raises(CrossrecError, match="a mask of type"):
        Block(8, 2, 0.0).eval()(torch.randn(2, 4, 8), mask)


@pytest.mark.parametrize("lengths", [[4, 6], [-1, 2], [1.5, 2.0]])
def test_lengths_that_cannot_be_are_refused(lengths):
    with pytest.raises(CrossrecError, match="whole numbers from 0 to 5"):
        CausalEncoder(8)(torch.randn(2, 5, 8), torch.tensor(lengths))
