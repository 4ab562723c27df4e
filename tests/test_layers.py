"""Which layers learn when, where they are in any model, and frozen ones that are replayed from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.encode import Encoder
from crossrec.layers import UnfreezeSchedule, layer_groups, layer_list, record, replayed, slanted
from crossrec.objectives import LiveVectors, Tokenized, text_chunks
from tests.toy import WORDS, item_words, language_model

KINDS = ["bert", "gpt2", "llama", "qwen2", "distilbert"]
schedules = st.builds(
    UnfreezeSchedule,
    groups=st.integers(1, 40),
    rate=st.floats(1e-6, 1e-2),
    decay=st.floats(1, 5),
    until=st.floats(0, 1),
    rise=st.floats(0, 1),
    learn=st.integers(0, 45),
)


def any_model(folder: Path, kind: str, layers: int = 4) -> Encoder:
    """A random model of many a family: those of the toy world, and some that it does not have."""
    if kind in ("bert", "gpt2", "llama"):
        return Encoder(str(language_model(folder, kind, layers)))
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import DistilBertConfig, DistilBertModel, Qwen2Config, Qwen2Model, T5Config, T5EncoderModel

    language_model(folder, "llama" if kind == "qwen2" else "bert", 1)  # for its tokenizer
    torch.manual_seed(1)
    size = {"vocab_size": 5 + len(WORDS.split()), "max_position_embeddings": 64}
    if kind == "qwen2":
        wide = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1}
        model = Qwen2Model(Qwen2Config(intermediate_size=48, **wide, **size))
    elif kind == "distilbert":
        model = DistilBertModel(DistilBertConfig(dim=32, hidden_dim=48, n_layers=layers, n_heads=2, **size))
    else:
        wide = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": layers, "num_heads": 2}
        model = T5EncoderModel(T5Config(vocab_size=size["vocab_size"], **wide))
    plain = folder.with_name(f"{folder.name}-plain")
    model.save_pretrained(plain)
    pooled = Pooling(32, "lasttoken" if kind == "qwen2" else "mean")
    made = SentenceTransformer(modules=[Transformer(str(plain)), pooled])
    made.save(str(folder), create_model_card=False)
    return Encoder(str(folder))


@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(1, 120))
def test_layers_wake_from_the_top_and_stay_awake(schedule: UnfreezeSchedule, total: int) -> None:
    rates = np.array([schedule.rates(step, total) for step in range(total)])  # [total, groups]
    awake = rates > 0
    assert rates.shape == (total, schedule.groups) and awake[:, -1].all()
    assert (awake[:, 1:] >= awake[:, :-1]).all(), "a layer is awake whenever the one below is"
    assert (awake[1:] >= awake[:-1]).all(), "nobody falls asleep again"
    np.testing.assert_array_equal(awake.argmax(0)[awake.any(0)], schedule.starts(total)[awake.any(0)])
    assert not awake[:, : schedule.groups - schedule.learning].any(), "what never learns never wakes"


@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(1, 120))
def test_lower_layers_are_slower_and_the_triangle_slants(schedule: UnfreezeSchedule, total: int) -> None:
    rates = np.array([schedule.rates(step, total) for step in range(total)])
    assert rates.max() <= schedule.rate * (1 + 1e-9)
    both = (rates[:, 1:] > 0) & (rates[:, :-1] > 0)
    np.testing.assert_allclose((rates[:, 1:] / schedule.decay)[both], rates[:, :-1][both])
    top, peak = rates[:, -1], int(rates[:, -1].argmax())
    assert (np.diff(top[: peak + 1]) >= 0).all() and (np.diff(top[peak:]) <= 0).all()


def test_golden_numbers_of_the_schedule() -> None:
    # by hand: h(5) = (1 + .5 * 31) / 32, h(55) = (1 + .5 * 31) / 32 with T = 100, c = .1, r = 32
    assert [slanted(step, 100) for step in (0, 5, 10, 55)] == pytest.approx([1 / 32, 16.5 / 32, 1.0, 16.5 / 32])
    schedule = UnfreezeSchedule(groups=3, rate=1e-3, decay=2.0, until=0.5)
    assert schedule.starts(100).tolist() == [50, 25, 0]
    assert schedule.rates(30, 100) == pytest.approx([0, 5e-4 * (1 + 31 * 70 / 90) / 32, 1e-3 * (1 + 31 * 70 / 90) / 32])
    assert UnfreezeSchedule(groups=3, learn=1).starts(100).tolist() == [100, 100, 0]


def test_the_table_and_the_picture_tell_the_same() -> None:
    schedule = UnfreezeSchedule(groups=4, rate=1e-4)
    table = schedule.table(40)
    assert table["layer"].tolist() == ["layer 3", "layer 2", "layer 1", "embeddings"]
    assert table["learns from step"].tolist() == [0, 6, 13, 20]
    axis = schedule.plot(40).axes[0]
    assert axis.get_title(loc="left") and axis.get_xlabel() and axis.get_ylabel()


@pytest.mark.parametrize("kind", [*KINDS, "t5"])
def test_layers_are_found_in_any_model(tmp_path: Path, kind: str) -> None:
    model = any_model(tmp_path / kind, kind, layers=5).load()
    groups = layer_groups(model)
    assert [len(group) > 0 for group in groups] == [True] * 6
    assert {id(w) for group in groups for w in group} == {id(w) for w in model.parameters()}
    names = {id(weight): name for name, weight in model.named_parameters()}
    for number, group in enumerate(groups[1:-1]):
        assert all(f".{number}." in names[id(weight)] for weight in group)


def vectors_and_gradients(model, replay, texts: list[str], numbers: np.ndarray) -> tuple[torch.Tensor, list]:
    """What a model says of texts, and how its top two layers should move for some loss."""
    live = LiveVectors(model, None, replay)
    made = live(text_chunks(Tokenized(model, texts), numbers, budget=40))
    model.zero_grad()
    (made * torch.linspace(-1, 1, made.numel()).view_as(made)).sum().backward()
    weights = [weight for group in layer_groups(model)[-2:] for weight in group]
    return made.detach(), [weight.grad.clone() for weight in weights if weight.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_is_plain(tmp_path: Path, kind: str) -> None:
    encoder = any_model(tmp_path / kind, kind)
    texts = sorted({*item_words(), "tea", "oat milk tea bread soap brush cream", " ".join(WORDS.split()[:17])})
    numbers = np.random.default_rng(0).permutation(len(texts))[:17]
    plain, want = vectors_and_gradients(encoder.load().eval(), None, texts, numbers)
    model = encoder.load().eval()
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    replay = replayed(model, texts, 2, tmp_path / "below")
    assert replay is not None
    again, found = vectors_and_gradients(model, replay, texts, numbers)
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-5)
    assert len(found) == len(want) > 4
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    replay.put_back()
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []


def test_a_model_whose_layers_say_more_goes_the_long_way(tmp_path: Path) -> None:
    encoder = any_model(tmp_path / "t5", "t5")
    model = encoder.load().eval()
    kept = list(layer_list(model)[1])
    with torch.no_grad():
        for weight in model.parameters():  # so that distances matter
            weight.add_(0.5 * torch.randn_like(weight))
    assert replayed(model, item_words(), 2, tmp_path / "below") is None
    assert all(a is b for a, b in zip(layer_list(model)[1], kept, strict=True))


def test_stored_vectors_are_ragged_and_half_as_large_in_bfloat16(tmp_path: Path) -> None:
    model = any_model(tmp_path / "bert", "bert").load().eval()
    texts = ["tea", "oat milk tea", "soap brush"]
    exact, half = (record(model, texts, 2, tmp_path / str(e), exact=e) for e in (True, False))
    assert exact.lengths.tolist() == half.lengths.tolist() == [3, 5, 4]
    sizes = [(tmp_path / str(e) / "tokens.bin").stat().st_size for e in (True, False)]
    assert sizes == [12 * 32 * 4, 12 * 32 * 2]
    torch.testing.assert_close(half.flat.float(), exact.flat, rtol=0, atol=0.05)
