"""The training loop: batches that lose nothing, seeds, early stopping, losses that break, several processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.loop import linear_rate
from crossrec.model import ModelSettings, TwoTower, transferable
from crossrec.ranking import rank_queries
from crossrec.train import (
    SeedScorer,
    SequenceScorer,
    TrainSettings,
    final_states,
    last_output,
    length_sorted,
    next_item_towers,
    padded,
    train,
    windows,
)
from crossrec.transformer import BERT, GPT, LLAMA, Block, Style
from tests.toy import N_ITEMS, item_vectors, ring, ring_queries, ring_view
from tests.two_processes import run_twice

SMALL = ModelSettings(width=16, max_length=6, dropout=0.2, text=False)
BRIEF = TrainSettings(epochs=3, positions=128, rate=1e-2, least_steps=1)

rows_of_items = st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=15)


def lists(rows: Sequences) -> list[list[int]]:
    return [rows[number].tolist() for number in range(len(rows))]


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({"width": 0}, "width=0"),
        ({"layers": -1}, "layers=-1"),
        ({"heads": 1.5}, "heads=1.5"),
        ({"max_length": True}, "max_length=True"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": "no"}, "dropout='no'"),
    ],
)
def test_sizes_that_no_model_has_are_refused_where_they_are_told(sizes: dict, found: str) -> None:
    with pytest.raises(CrossrecError, match=f"ModelSettings: found {found}; expected"):
        ModelSettings(**sizes)


@settings(max_examples=60, deadline=None)
@given(rows_of_items, st.integers(1, 12))
def test_windows_predict_every_item_but_the_first_once(rows: list[list[int]], length: int) -> None:
    cut = lists(windows(Sequences.from_lists(rows), length))
    assert all(2 <= len(window) <= length + 1 for window in cut)
    assert [item for window in cut for item in window[1:]] == [item for row in rows for item in row[1:]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=2, max_size=40), st.integers(1, 12))
def test_the_last_window_is_full_and_ends_where_the_row_ends(row: list[int], length: int) -> None:
    last = lists(windows(Sequences.from_lists([row]), length))[-1]
    assert last == row[-min(len(row), length + 1) :]


@settings(max_examples=60, deadline=None)
@given(rows_of_items, st.integers(0, 5))
def test_padding_stands_at_the_end_and_nothing_is_lost(rows: list[list[int]], extra: int) -> None:
    width = max(map(len, rows), default=0) + extra
    matrix, lengths = padded(Sequences.from_lists(rows), width)
    assert matrix.shape == (len(rows), width) and matrix.dtype == torch.int64
    assert [line[:n] for line, n in zip(matrix.tolist(), lengths.tolist(), strict=True)] == rows
    assert not any(any(line[n:]) for line, n in zip(matrix.tolist(), lengths.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 51), min_size=1, max_size=200), st.integers(1, 400), st.integers(0, 99))
def test_batches_hold_every_window_once_in_like_lengths(lengths: list[int], positions: int, seed: int) -> None:
    sizes = np.array(lengths)
    batches = length_sorted(sizes, positions, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    assert all(0 < (sizes[rows] - 1).sum() < positions + sizes.max() for rows in batches)
    ranges = sorted((sizes[rows].min(), sizes[rows].max()) for rows in batches)
    assert all(before[1] <= after[0] for before, after in zip(ranges, ranges[1:], strict=False))


@given(st.integers(1, 500), st.integers(1, 200))
def test_the_rate_climbs_once_and_falls_once(total: int, warmup: int) -> None:
    rates = [linear_rate(step, total, warmup) for step in range(total)]
    peak = int(np.argmax(rates))
    assert 0 < min(rates) and max(rates) <= 1
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) <= 0).all()


def trained(seed: int = 0, **changes: object) -> TwoTower:
    torch.manual_seed(seed)
    net = TwoTower(SMALL, N_ITEMS)
    train(net, ring(), replace(BRIEF, seed=seed, **changes))
    return net


def same(a: TwoTower, b: TwoTower) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_same_seed_same_bits_other_seed_others() -> None:
    assert same(trained(), trained())
    assert not same(trained(), trained(seed=1))


def test_the_log_tells_of_every_epoch() -> None:
    log = train(TwoTower(SMALL, N_ITEMS), ring(), BRIEF)
    assert list(log.columns) == ["epoch", "loss", "valid", "seconds"] and list(log["epoch"]) == [1, 2, 3]
    assert log["loss"].is_monotonic_decreasing and log["valid"].isna().all()


def test_early_stopping_returns_to_the_best_state() -> None:
    net = TwoTower(SMALL, N_ITEMS)
    values, states = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9], []

    def judge() -> float:
        assert not net.training, "dropout must be off while judging"
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        return values[len(states) - 1]

    log = train(net, ring(), replace(BRIEF, epochs=6, patience=3, average=0.0), judge)
    assert log["valid"].tolist() == values[:5]
    assert all(torch.equal(value, states[1][name]) for name, value in net.state_dict().items())
    assert any(not torch.equal(value, states[4][name]) for name, value in net.state_dict().items())
    assert not net.training


def test_tiny_data_is_trained_longer_and_large_data_shorter() -> None:
    epochs = {
        name: len(train(TwoTower(SMALL, N_ITEMS), ring(), replace(BRIEF, epochs=4, **limits)))
        for name, limits in {"least": {"least_steps": 60}, "most": {"most_steps": 12}}.items()
    }
    per_epoch = len(length_sorted(windows(ring(), 6).lengths, BRIEF.positions, np.random.default_rng(0)))
    assert epochs["least"] == -(-60 // per_epoch) and epochs["most"] == max(1, 12 // per_epoch)


def test_frozen_weights_stay() -> None:
    net = TwoTower(SMALL, N_ITEMS)
    net.ids.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(net, ring(), BRIEF)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and "ids" not in changed


def test_a_loss_that_breaks_says_so() -> None:
    net = TwoTower(SMALL, N_ITEMS)
    with torch.no_grad():
        net.ids[3] = torch.nan
    with pytest.raises(CrossrecError, match="loss nan in step 1 .epoch 1.*Lower the learning rate"):
        train(net, ring(), BRIEF)


def test_nothing_to_predict_says_so() -> None:
    with pytest.raises(CrossrecError, match="no history of two items"):
        train(TwoTower(SMALL, N_ITEMS), Sequences.from_lists([[1], [], [2]]), BRIEF)


def test_a_sampled_softmax_learns_the_ring_too() -> None:
    sampled = TrainSettings(epochs=40, positions=256, rate=1e-2, sample_above=5, negatives=16)
    scorer = SequenceScorer(model=replace(SMALL, dropout=0.0), settings=sampled).fit(ring_view())
    assert (rank_queries(scorer, ring_queries()) == 1).mean() > 0.9


def test_what_was_learned_is_carried_to_another_catalogue() -> None:
    model = replace(SMALL, text=True, ids=False)
    state = transferable(SequenceScorer(item_vectors(), model, BRIEF).fit(ring_view()).net)
    before = {name: value.clone() for name, value in state.items()}
    view = ring_view()
    moved = SequenceScorer(item_vectors(seed=1), model, BRIEF, start=state)
    moved.fit(replace(view, train=Sequences.from_lists([]), target_users=0))
    assert all(torch.equal(moved.net.state_dict()[name], value) for name, value in state.items())
    moved.fit(view)
    assert all(torch.equal(state[name], value) for name, value in before.items()), "fit must not change its start"


@pytest.mark.parametrize("style", [GPT, BERT, LLAMA, Style(key_heads=1), Style(bias=False)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_last_output_alone_is_the_last_of_all(style: Style, n: int) -> None:
    torch.manual_seed(0)
    block = Block(16, 4, style=style).eval()
    with torch.no_grad():
        for value in block.parameters():
            value += 0.3 * torch.randn_like(value)
        x = torch.randn(5, n, 16)
        torch.testing.assert_close(last_output(block, x), block(x)[:, -1], rtol=1e-5, atol=1e-5)


def scattered(n: int = 60, longest: int = 20) -> Sequences:
    """Histories of all lengths, none at all included, longer than a model reads too."""
    rng = np.random.default_rng(0)
    return Sequences.from_lists([rng.integers(0, N_ITEMS, rng.integers(0, longest)).tolist() for _ in range(n)])


def plain_states(net: TwoTower, histories: Sequences) -> torch.Tensor:
    """Every position of a padded rectangle, then the one that is wanted."""
    items, lengths = padded(histories.truncate(net.settings.max_length), net.settings.max_length)
    with torch.no_grad():
        states = net.users(net.items(), items)[torch.arange(len(items)), (lengths - 1).clamp(min=0)]
    return states * (lengths > 0)[:, None]


class Reversed(TwoTower):
    """A model that reads histories in its own way: only `users` tells how."""

    def users(self, items: torch.Tensor, histories: torch.Tensor) -> torch.Tensor:
        return -super().users(items, histories)


def nets() -> dict[str, TwoTower]:
    torch.manual_seed(0)
    seed = SeedScorer(max_length=6).build(N_ITEMS)
    made = {"ids": TwoTower(SMALL, N_ITEMS), "seed": seed, "one layer": TwoTower(replace(SMALL, layers=1), N_ITEMS)}
    made |= {"own": Reversed(SMALL, N_ITEMS), "text": TwoTower(replace(SMALL, text=True), N_ITEMS, item_vectors())}
    return {name: net.eval() for name, net in made.items()}


@pytest.mark.parametrize("name", nets())
def test_final_states_are_those_of_the_padded_rectangle(name: str) -> None:
    net, histories = nets()[name], scattered()
    with torch.no_grad():
        states = final_states(net, histories, net.items())
        torch.testing.assert_close(states, plain_states(net, histories), rtol=1e-5, atol=1e-6)
        users, items = next_item_towers(net, histories)
        assert torch.equal(users, states) and torch.equal(items, net.items())
    assert not states[torch.from_numpy(histories.lengths == 0)].any()


@pytest.mark.parametrize("name", nets())
def test_a_state_does_not_depend_on_the_company(name: str) -> None:
    net, histories = nets()[name], scattered()
    with torch.no_grad():
        items = net.items()
        together = final_states(net, histories, items)
        for rows in (np.arange(60)[::-1], np.arange(7), *np.arange(60)[:, None]):
            alone = final_states(net, histories.take(rows), items)
            torch.testing.assert_close(alone, together[torch.from_numpy(rows.copy())], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ids_only", "with_text", "seed"])
def test_towers_are_the_scores(name: str) -> None:
    makers = {
        "ids_only": lambda: SequenceScorer(model=SMALL, settings=BRIEF),
        "with_text": lambda: SequenceScorer(item_vectors(), SMALL, BRIEF),
        "seed": lambda: SeedScorer(BRIEF, max_length=6),
    }
    scorer, histories = makers[name]().fit(ring_view()), scattered()
    users, items = scorer.towers(histories)
    np.testing.assert_allclose((users @ items.T).numpy(), scorer.score(histories), rtol=1e-5, atol=1e-6)
    untrained = makers[name]().fit(replace(ring_view(), train=Sequences.from_lists([])))
    users, items = untrained.towers(histories)
    assert not (users @ items.T).any() and not untrained.score(histories).any()
    assert untrained.needs_interactions


def test_two_processes_end_with_equal_weights(tmp_path: Path) -> None:
    first, second = run_twice("train", tmp_path)
    assert first == second and first["processes"] == 2
    assert first["batches"] % 2 == 1, "the point of this test is a last batch that only one process has"


@pytest.mark.parametrize("most", [0, -3, 0.5, None])
def test_a_number_of_steps_that_cannot_be_meant_is_refused(most: object) -> None:
    with pytest.raises(CrossrecError, match=f"most_steps={most}; expected a whole number above 0"):
        SequenceScorer(None, SMALL, replace(BRIEF, most_steps=most)).fit(ring_view())
