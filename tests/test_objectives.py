"""What a language model is tuned for: numbers by hand, brute force, words that are hidden, pulls that hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.encode import Encoder, Whitening
from crossrec.losses import info_nce
from crossrec.model import ModelSettings, TwoTower
from crossrec.objectives import (
    HistoryContrast,
    LanguageModelling,
    LiveVectors,
    ThroughSequences,
    Tokenized,
    contrast,
    each_once,
    hidden_words,
    language_head,
    recent_mean,
    stretch,
    text_chunks,
)
from crossrec.pretrained import model_inputs
from tests.test_layers import any_model
from tests.toy import item_words


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def test_the_past_is_weighed_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = recent_mean(vectors, torch.tensor([[0, 1], [2, -1], [1, 1]]), 0.5)
    mixed = torch.tensor([1.0, 0.5]) / 1.25**0.5
    torch.testing.assert_close(found, torch.stack([mixed, vectors[2], vectors[1]]))


def test_false_negatives_by_hand() -> None:
    # one question with cosines 1, 0, 0.5 to three candidates, tau = 1: e = 2.71828, 1, 1.64872
    query, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.75**0.5]])
    ids, own = torch.tensor([3, 5, 8]), torch.tensor([3])
    nobody = torch.zeros(0, 2, dtype=torch.int64)
    met = {"nothing": (nobody, 5.36700), "text 8": (torch.tensor([[0, 8]]), 3.71828),
           "all": (torch.tensor([[0, 5], [0, 8], [0, 3], [0, 77]]), 2.71828)}
    for taken, total in met.values():
        assert contrast(query, keys, ids, own, taken, 1.0).item() == pytest.approx(np.log(total) - 1, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 9), st.integers(1, 7))
def test_contrast_is_the_formula(seed: int, n: int, texts: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.integers(0, texts, n)
    ids = np.unique(own)
    queries, keys = unit(n, 4, seed), unit(len(ids), 4, seed + 1)
    taken = np.stack([rng.integers(0, n, 6), rng.integers(0, texts + 2, 6)], 1)
    losses = []
    for row in range(n):
        met = set(taken[taken[:, 0] == row, 1].tolist())
        logits = {int(t): float(queries[row] @ keys[k]) / 0.3 for k, t in enumerate(ids)}
        wrong = sum(np.exp(v) for t, v in logits.items() if t != own[row] and t not in met)
        losses.append(np.log(np.exp(logits[int(own[row])]) + wrong) - logits[int(own[row])])
    told = contrast(queries, keys, *map(torch.from_numpy, (ids, own, taken)), 0.3)
    assert told.item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_contrast_of_pairs_is_info_nce() -> None:
    queries, keys, ids = unit(6, 8, 0), unit(6, 8, 1), torch.arange(6)
    nobody = torch.zeros(0, 2, dtype=torch.int64)
    torch.testing.assert_close(contrast(queries, keys, ids, ids, nobody, 0.1), info_nce(queries, keys, 0.1))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_each_once_finds_first_places(ids: list[int]) -> None:
    distinct, first = each_once(torch.tensor(ids))
    assert distinct.tolist() == sorted(set(ids))
    assert first.tolist() == [ids.index(text) for text in sorted(set(ids))]


def test_stretch_does_not_depend_on_how_rows_are_dealt_out() -> None:
    live, home = unit(5, 3, 0), unit(5, 3, 1)
    places = torch.tensor([[0, 1, -1], [2, 3, 4], [1, 1, 0], [4, -1, -1]])
    parts = [stretch(live, home, places[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(parts) / 2, stretch(live, home, places))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return any_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.mark.parametrize("budget", [1, 9, 1000])
def test_chunks_hold_every_text_once_and_little_padding(start: Encoder, budget: int) -> None:
    model, texts = start.load().eval(), [*item_words(), "tea", "oat milk tea bread"]
    lengths = np.array([len(text.split()) + 2 for text in texts])
    numbers = np.argsort(-lengths, kind="stable")
    chunks = text_chunks(Tokenized(model, texts), numbers, budget)
    assert np.concatenate([part for part, _ in chunks]).tolist() == numbers.tolist()
    assert all(inputs["input_ids"].numel() <= max(budget, 6) for _, inputs in chunks)
    with torch.no_grad():
        live = LiveVectors(model)(chunks)
        alone = LiveVectors(model)(text_chunks(Tokenized(model, texts), numbers, 1))
    torch.testing.assert_close(live, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_texts_are_cut_once_as_the_model_would_cut_them(kind: str, tmp_path: Path) -> None:
    model, texts = any_model(tmp_path / kind, kind).load(), [*item_words(), "tea", "oat milk tea bread"]
    tokenized, numbers = Tokenized(model, texts), np.array([len(texts) - 1, 0, len(texts) - 2, 3])
    expected, found = model_inputs(model, [texts[number] for number in numbers]), tokenized.inputs(numbers)
    for name in ("input_ids", "attention_mask"):
        assert found[name].tolist() == expected[name].tolist()
    assert tokenized.lengths[numbers].tolist() == expected["attention_mask"].sum(1).tolist()


def test_vectors_stand_where_the_whitening_puts_them(start: Encoder) -> None:
    plain = np.random.default_rng(0).normal(size=(99, 32)).astype(np.float32)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    whitening = Whitening.of(plain)
    placed = LiveVectors(start.load(), whitening).place(torch.from_numpy(plain)).numpy()
    np.testing.assert_allclose(placed, whitening(plain), atol=1e-5)


def batch(model, texts: list[str]) -> tuple:
    chunks = text_chunks(Tokenized(model, texts), np.arange(len(texts)), 1000)
    return chunks, torch.arange(len(texts))


def test_a_part_of_the_history_contrast_can_be_taken_away(start: Encoder) -> None:
    model, texts = start.load().eval(), item_words()[:6]
    chunks, numbers = batch(model, texts)
    with torch.no_grad():
        home = LiveVectors(model)(chunks)
        given = (chunks, numbers, home, torch.tensor([[0], [1], [2]]), torch.tensor([3, 4, 5]))
        nobody = torch.zeros(0, 2, dtype=torch.int64)
        free = HistoryContrast(LiveVectors(model), 0.2, 0.7, 0.0)(*given, nobody)
        held = HistoryContrast(LiveVectors(model), 0.2, 0.7, 9.0)(*given, nobody)
        away = HistoryContrast(LiveVectors(model), 0.2, 0.7, 9.0)(chunks, numbers, -home, *given[3:], nobody)
    torch.testing.assert_close(free, info_nce(home[:3], home[3:], 0.2))
    torch.testing.assert_close(free, held)
    torch.testing.assert_close(away, free + 9.0 * 4.0)  # opposite vectors of length one are 2 apart


def test_through_a_sequence_model_is_the_sampled_softmax_of_the_batch(start: Encoder) -> None:
    from crossrec.losses import sampled_softmax

    model, texts = start.load().eval(), item_words()[:5]
    chunks, numbers = batch(model, texts)
    torch.manual_seed(0)
    size = ModelSettings(ids=False, width=8, dropout=0.0, max_length=4)
    net = TwoTower(size, 5, np.zeros((5, 32), np.float32)).eval()
    log_q = torch.log_softmax(torch.randn(5), 0)
    items, lengths = torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([3, 2])
    with torch.no_grad():
        live = LiveVectors(model)(chunks)
        told = ThroughSequences(LiveVectors(model), net, 0.0)(chunks, numbers, live, items, lengths, log_q)
        table = net.project(live)
        states = net.users(table, items[:, :-1])
        targets = torch.tensor([1, 2, 4])
        want = sampled_softmax(torch.stack([states[0, 0], states[0, 1], states[1, 0]]), table, targets, targets, log_q)
    torch.testing.assert_close(told, want)


def test_a_sequence_model_with_ids_is_refused(start: Encoder) -> None:
    with pytest.raises(CrossrecError, match="Make it without ids"):
        ThroughSequences(LiveVectors(start.load()), TwoTower(ModelSettings(), 5, np.zeros((5, 32), np.float32)), 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 999))
def test_what_is_hidden_can_be_told_apart(ids: list[int], seed: int) -> None:
    keep, whole = {0, 1}, torch.tensor(ids)
    seen, guess = hidden_words(whole, keep, 31, 31, np.random.default_rng(seed))
    chosen, free = guess >= 0, sum(token not in keep for token in ids)
    assert int(chosen.sum()) == (max(1, round(0.15 * free)) if free else 0)
    assert torch.equal(guess[chosen], whole[chosen]) and torch.equal(seen[~chosen], whole[~chosen])
    assert not any(token in keep for token in whole[chosen].tolist())


def test_eight_in_ten_hidden_words_are_masked() -> None:
    ids = torch.full((4000,), 7)
    seen, guess = hidden_words(ids, set(), 31, 31, np.random.default_rng(0))
    shown = seen[guess >= 0]
    assert abs((shown == 31).float().mean() - 0.8) < 0.05 and abs((shown == 7).float().mean() - 0.1) < 0.05


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "qwen2", "distilbert"])
def test_every_family_gets_its_head(tmp_path: Path, kind: str) -> None:
    encoder = any_model(tmp_path / kind, kind, 2)
    model = encoder.load()
    full, masked = language_head(model, encoder.folder)
    assert masked == (kind in ("bert", "distilbert"))
    own = {id(weight) for weight in full.parameters()}
    shared = [id(weight) in own for name, weight in model.named_parameters() if "pooler" not in name]
    assert all(shared), "the head stands on the very model that is tuned"
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    told = LanguageModelling(full)([(ids, torch.ones_like(ids), ids)])
    assert told.isfinite() and told.requires_grad


def test_a_checkpoint_with_a_head_keeps_it(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    plain = any_model(tmp_path / "bert", "bert", 2)
    config = plain.load()[0].auto_model.config
    with_head = BertForMaskedLM(config)
    with_head.save_pretrained(tmp_path / "bert-plain")  # beside the tokenizer
    encoder = Encoder(str(tmp_path / "bert-plain"))
    full, _ = language_head(encoder.load(), encoder.folder)
    heads = [model.cls.predictions.transform.dense.weight for model in (full, with_head)]
    torch.testing.assert_close(*heads)


def test_a_family_without_a_head_says_so(tmp_path: Path) -> None:
    encoder = any_model(tmp_path / "t5", "t5", 2)
    with pytest.raises(CrossrecError, match="'t5'; expected one that guesses words"):
        language_head(encoder.load(), encoder.folder)
