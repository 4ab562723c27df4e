"""Chapter 03: splits are disjoint, ordered, deterministic, nested, and nothing learned is later than what is asked."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.split import (
    Queries,
    Split,
    before,
    cold_items,
    cold_users,
    global_time,
    guard,
    learned_later,
    leave_one_out,
    overlap,
    split_domains,
    time_cut,
)  # fmt: skip

FIRST = 1_700_000_000_000  # so that times are milliseconds beyond doubt
rows_of = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 40)), min_size=3, max_size=90)


def domain(rows: list[tuple[int, int, int]], time: str = "timestamp", name: str = "demo") -> Domain:
    table = pd.DataFrame(rows, columns=["user_id", "item_id", time]).astype({"user_id": str, "item_id": str})
    if time == "timestamp":
        table[time] += FIRST
    items = pd.DataFrame({"item_id": [str(i) for i in range(6)], "title": "words"})
    return Domain(name, table, items)  # reading and cleaning have tests of their own


def lists(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in sequences]


def same(a: Split, b: Split) -> bool:
    parts = [(lists(s.train), lists(s.valid.histories), s.valid.targets.tolist(), lists(s.test.histories),
              s.test.targets.tolist(), s.test.users.tolist()) for s in (a, b)]
    return parts[0] == parts[1]


@given(rows_of)
@settings(max_examples=30, deadline=None)
def test_leave_one_out_is_the_row_cut_in_three(rows: list) -> None:
    whole = domain(rows, "position")
    split = leave_one_out(whole)
    everything = lists(whole.sequences)
    long = [i for i, row in enumerate(everything) if len(row) >= 3]
    assert split.valid.users.tolist() == split.test.users.tolist() == long
    assert lists(split.train) == [row[:-2] if len(row) >= 3 else row for row in everything]
    assert lists(split.valid.histories) == [everything[i][:-2] for i in long]
    assert lists(split.test.histories) == [everything[i][:-1] for i in long]
    assert split.valid.targets.tolist() == [everything[i][-2] for i in long]
    assert split.test.targets.tolist() == [everything[i][-1] for i in long]
    assert same(split, leave_one_out(domain(rows, "position")))


@given(rows_of, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_global_time_learns_only_from_the_past(rows: list, one: int, other: int) -> None:
    whole = domain(rows)
    valid_cut, cut = FIRST + min(one, other), FIRST + max(one, other)
    split = global_time(whole, cut, valid_cut)
    assert (split.train.times < valid_cut).all()
    assert (split.valid.histories.times < valid_cut).all() and (split.test.histories.times < cut).all()
    everything, times = whole.sequences, np.split(whole.sequences.times, whole.sequences.offsets[1:-1])
    for queries, start, end in ((split.valid, valid_cut, cut), (split.test, cut, np.inf)):
        expected = {}
        for user, (row, when) in enumerate(zip(everything, times, strict=True)):
            window = np.flatnonzero((when >= start) & (when < end))
            if len(window) and window[0] > 0:
                expected[user] = (row[: window[0]].tolist(), int(row[window[0]]))
        got = zip(lists(queries.histories), queries.targets.tolist(), strict=True)
        assert dict(zip(queries.users.tolist(), got, strict=True)) == expected
    assert [row.tolist() for row in split.train] == [
        row[when < valid_cut].tolist() for row, when in zip(everything, times, strict=True)
    ]
    assert same(split, global_time(domain(rows), cut, valid_cut))


@given(rows_of, rows_of)
@settings(max_examples=30, deadline=None)
def test_two_domains_share_one_cut(source_rows: list, target_rows: list) -> None:
    source, target = domain(source_rows), domain(target_rows)
    try:
        source_split, target_split = split_domains(source, target)
    except CrossrecError as error:
        assert "leave_one_out" in str(error)
        return
    asked = target_split.valid_cut
    assert len(source_split.test) == 0 and source_split.n_items == source.n_items
    assert len(source_split.train) == len(source.users)
    for learned in (source_split.train, source_split.valid.histories, target_split.train):
        assert (learned.times < asked).all()
    known = len(before(source, asked).interactions)
    assert len(source_split.train.items) + len(source_split.valid) <= known < len(source.interactions) + 1


@given(rows_of, st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_few_shot_samples_are_nested_and_seeded(rows: list, seed: int) -> None:
    split = leave_one_out(domain(rows, "position"))
    able = np.flatnonzero(split.train.lengths >= 2)
    smaller: set[int] = set()
    for n in range(len(able) + 1):
        view = split.view(n, seed)
        users = view.users.tolist()
        assert len(users) == n == view.target_users and smaller <= set(users) <= set(able.tolist())
        assert users == split.view(n, seed).users.tolist()
        assert lists(view.train) == [split.train[user].tolist() for user in users]
        assert set(view.valid.users.tolist()) <= set(users)
        smaller = set(users)
    with pytest.raises(CrossrecError, match=f"{len(able) + 1} target users"):
        split.view(len(able) + 1, seed)


def test_views_at_the_ends() -> None:
    split = leave_one_out(domain([(u, i % 6, i) for u in range(5) for i in range(u + 1)], "position"))
    none, every = split.view(0), split.view("all")
    assert none.regime == "zero-shot" and len(none.train) == len(none.valid) == none.target_users == 0
    assert none.n_items == split.n_items and len(none.train.items) == 0
    assert every.regime == "full" and lists(every.train) == lists(split.train) and len(every.valid) == len(split.valid)
    assert split.view(2).regime == "few-shot"
    for wrong in (-1, "some"):
        with pytest.raises(CrossrecError, match="target users"):
            split.view(wrong)


def test_seeds_draw_different_users() -> None:
    split = leave_one_out(domain([(u, i, i) for u in range(9) for i in range(5)], "position"))
    assert len({tuple(split.view(4, seed).users) for seed in range(6)}) > 1


def test_time_cut_leaves_the_shares_before_it() -> None:
    whole = domain([(u, i % 6, 10 * i + u) for u in range(5) for i in range(20)])
    valid_cut, cut = time_cut(whole)
    times = whole.sequences.times
    assert abs((times < valid_cut).mean() - 0.8) < 0.02 and abs((times < cut).mean() - 0.9) < 0.02
    assert isinstance(valid_cut, int) and isinstance(cut, int)
    with pytest.raises(CrossrecError, match="found times from"):
        time_cut(domain([(0, 1, 5), (0, 2, 5), (1, 2, 5)]))


def test_order_alone_refuses_a_cut_in_time() -> None:
    ordered, timed = domain([(0, 1, 1), (0, 2, 2), (0, 3, 3)], "position"), domain([(0, i % 6, i) for i in range(30)])
    assert split_domains(ordered, timed)[1].kind == "leave_one_out"
    assert split_domains(timed, timed)[1].kind == "global_time"
    for pair in ((ordered, timed), (timed, ordered)):
        with pytest.raises(CrossrecError, match="only the order of each user's interactions"):
            split_domains(*pair, "global_time")
    with pytest.raises(CrossrecError, match="leave_one_out or global_time"):
        split_domains(timed, timed, "random")


def test_guard_catches_a_source_from_the_future() -> None:
    target = domain([(0, i % 6, i) for i in range(30)])
    late = domain([(u, i % 6, 20 + i) for u in range(3) for i in range(10)], name="late")
    _, split = split_domains(target, target)
    with pytest.raises(CrossrecError, match="training of the source that are later"):
        guard(leave_one_out(late), split)
    with pytest.raises(CrossrecError, match="of unknown time"):
        guard(leave_one_out(domain([(0, i % 6, i) for i in range(9)], "position")), split)
    with pytest.raises(CrossrecError, match="no interaction before"):
        split_domains(domain([(0, i % 6, 100 + i) for i in range(9)]), target)


def test_before_keeps_what_was_known() -> None:
    whole = domain([(0, 1, 1), (0, 2, 5), (1, 3, 6), (1, 1, 9)])
    known = before(whole, FIRST + 6)
    assert known.users.tolist() == ["0"] and known.item_ids.tolist() == ["1", "2"]
    assert len(whole.interactions) == 4


def told_and_asked(queries: Queries) -> list[tuple[int, list[int], int]]:
    rows = zip(queries.users.tolist(), lists(queries.histories), queries.targets.tolist(), strict=True)
    return sorted(rows, key=lambda row: (row[0], row[2]))


def cold_by_hand(rows: list[list[int]], times: list[list[int]], asked: set, cold: set, window: tuple, end: int | None):
    """The questions about some cold items, one interaction after the other."""
    found, seen = [], set()
    for user, (row, when) in enumerate(zip(rows, times, strict=True)):
        for place, item in enumerate(row):
            if item in asked and window[0] <= when[place] < window[1] and (user, item) not in seen:
                seen.add((user, item))
                known = range(place) if end is None else [p for p in range(len(row)) if when[p] < end]
                if history := [row[p] for p in known if row[p] not in cold]:
                    found.append((user, history, item))
    return sorted(found, key=lambda row: (row[0], row[2]))


@given(rows_of, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_drawn_cold_items_are_asked_once_and_never_told(rows: list, tenths: int, seed: int) -> None:
    whole = domain(rows, "position")
    everything = lists(whole.sequences)
    try:
        split = cold_items(whole, share=tenths / 10, seed=seed)
    except CrossrecError as error:
        assert "no cold item" in str(error)
        return
    valid, test = set(split.valid.targets.tolist()), set(split.test.targets.tolist())
    assert not valid & test
    trained = set(split.train.items.tolist())
    cold = set(range(6)) & {item for row in everything for item in row} - trained
    told = np.concatenate([split.valid.histories.items, split.test.histories.items])
    assert valid | test <= cold and not cold & set(told.tolist())
    assert lists(split.train) == [[item for item in row if item not in cold] for row in everything]
    places = [list(range(len(row))) for row in everything]
    asked = told_and_asked(split.valid) + told_and_asked(split.test)
    expected = cold_by_hand(everything, places, cold, cold, (0, 1000), None)
    assert sorted(asked, key=lambda row: (row[0], row[2])) == expected
    assert same(split, cold_items(domain(rows, "position"), share=tenths / 10, seed=seed))


@given(rows_of, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_new_items_are_asked_with_what_was_known_at_the_moment(rows: list, one: int, other: int) -> None:
    whole, valid_cut, cut = domain(rows), FIRST + min(one, other), FIRST + max(one, other)
    everything = lists(whole.sequences)
    times = [t.tolist() for t in np.split(whole.sequences.times, whole.sequences.offsets[1:-1])]
    first = {}
    for row, when in zip(everything, times, strict=True):
        for item, moment in zip(row, when, strict=True):
            first[item] = min(first.get(item, moment), moment)
    held = {i for i, t in first.items() if valid_cut <= t < cut}, {i for i, t in first.items() if t >= cut}
    expected = [cold_by_hand(everything, times, held[0], held[0] | held[1], (valid_cut, cut), valid_cut),
                cold_by_hand(everything, times, held[1], held[0] | held[1], (cut, 2 * FIRST), cut)]
    if not expected[1]:
        with pytest.raises(CrossrecError, match="Use an earlier cut"):
            cold_items(whole, (valid_cut, cut))
        return
    split = cold_items(whole, (valid_cut, cut))
    assert [told_and_asked(split.valid), told_and_asked(split.test)] == expected
    assert lists(split.train) == lists(global_time(whole, cut, valid_cut).train)
    assert (split.train.times < valid_cut).all() and (split.test.histories.times < cut).all()
    guard(split, split)


def test_cold_items_refuse_what_cannot_be_done() -> None:
    ordered = domain([(u, i, i) for u in range(4) for i in range(6)], "position")
    for share in (0, 0.5, -1):
        with pytest.raises(CrossrecError, match="more than 0, less than 0.5"):
            cold_items(ordered, share=share)
    with pytest.raises(CrossrecError, match="only the order"):
        cold_items(ordered, (1, 2))
    with pytest.raises(CrossrecError, match="Swap them"):
        cold_items(domain([(0, i % 6, i) for i in range(9)]), (FIRST + 2, FIRST + 1))
    with pytest.raises(CrossrecError, match="Use a larger share"):
        cold_items(ordered, share=0.01)


def test_shares_of_cold_items_are_nested_and_seeded() -> None:
    wide = domain([(u, (i + u) % 6, i) for u in range(4) for i in range(6)], "position")
    small, large = (set(cold_items(wide, share=share).test.targets.tolist()) for share in (0.17, 0.34))
    assert len(small) == 1 < len(large) == 2 and small < large
    assert len({tuple(cold_items(wide, share=0.3, seed=seed).test.targets) for seed in range(8)}) > 1


@given(rows_of, rows_of, st.integers(0, 10), st.integers(0, 3), st.sampled_from(["leave_one_out", "global_time"]))
@settings(max_examples=50, deadline=None)
def test_cold_users_are_known_only_from_the_source(s: list, t: list, tenths: int, seed: int, kind: str) -> None:
    source, target = domain(s), domain(t)
    try:
        splits = split_domains(source, target, kind)
        learned, split = cold_users(source, target, splits, tenths / 10, seed)
    except CrossrecError as error:
        assert "leave_one_out" in str(error) or "no cold user" in str(error)
        return
    cold, base = split.cold, splits[1]
    assert learned is splits[0] and len(set(cold.users.tolist())) == len(cold) > 0
    assert (target.users[cold.users] == source.users[cold.source_users]).all()
    hidden = set(cold.users.tolist())
    for part in (split.valid, split.test):
        assert not hidden & set(part.users.tolist())
    told, rows = source.sequences, target.sequences
    for k, user in enumerate(cold.users):
        when = rows.times[rows.offsets[user] : rows.offsets[user + 1]]
        place = 0 if base.cut is None else int((when < base.cut).sum())
        moment = when[place] if base.cut is None else base.cut
        row = cold.source_users[k]
        known = (told.times[told.offsets[row] : told.offsets[row + 1]] < moment).sum()
        assert cold.targets[k] == rows[user][place] and known > 0
        assert cold.source_histories[k].tolist() == told[row][:known].tolist()
    for user in range(len(target.users)):  # nobody else is touched
        assert split.train[user].tolist() == ([] if user in hidden else base.train[user].tolist())
    assert len(split.test) + len(hidden & set(base.test.users.tolist())) == len(base.test)
    if base.cut is not None:  # users who came after the cut are always among them
        late = {u for u in range(len(target.users)) if rows.times[rows.offsets[u]] >= base.cut}
        able = {int(np.searchsorted(target.users, name)) for name in np.intersect1d(source.users, target.users)
                if told.times[told.offsets[np.searchsorted(source.users, name)]] < base.cut}
        assert late & able <= hidden
    fewer = set()
    for share in range(tenths + 1):  # a smaller share lies inside a larger one
        try:
            drawn = set(cold_users(source, target, splits, share / 10, seed)[1].cold.users.tolist())
        except CrossrecError:
            drawn = set()
        assert fewer <= drawn <= hidden
        fewer = drawn


def test_source_histories_cannot_be_taken_for_target_histories() -> None:
    rows = [(u, i, i) for u in range(6) for i in range(5)]
    source, target = domain(rows, "position", "one"), domain(rows, "position", "two")
    split = cold_users(source, target, share=0.5)[1]
    assert len(split.cold) == 3 and not hasattr(split.cold, "histories") and not isinstance(split.cold, Queries)
    both = split.cold.beside(target.n_items)
    assert both.histories.items.min() >= target.n_items
    assert (both.histories.items - target.n_items == split.cold.source_histories.items).all()
    assert both.targets.tolist() == split.cold.targets.tolist() == [0, 0, 0]
    half = split.cold.take(np.array([True, False, True]))
    assert half.users.tolist() == split.cold.users[[0, 2]].tolist() and len(half.source_histories) == 2
    assert split.view("all").target_users == 3 and split.most_users == 3
    with pytest.raises(CrossrecError, match="users in common"):
        cold_users(domain([(u + 10, i, i) for u, i, _ in rows], "position"), target)


def test_guard_catches_a_cold_user_who_brings_the_future() -> None:
    rows = [(u, i % 6, i) for u in range(5) for i in range(30)]
    source, target = domain(rows), domain(rows[:30])
    learned, split = cold_users(source, target, share=1)
    late = leave_one_out(source).train.take(split.cold.source_users)
    wrong = Split(**{**vars(split), "cold": type(split.cold)(**{**vars(split.cold), "source_histories": late})})
    assert learned_later(learned, split)["later"].sum() == 0
    assert learned_later(learned, wrong)["later"].to_dict()["source histories of cold users"] == 1
    with pytest.raises(CrossrecError, match="1 interactions in the source histories of cold users"):
        guard(learned, wrong)


def test_a_large_domain_is_split_in_moments() -> None:
    draw, n = np.random.default_rng(0), 300_000
    users, items = draw.integers(0, 30_000, n).astype(str), draw.integers(0, 5_000, n).astype(str)
    rows = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": FIRST + np.arange(n)})
    large = Domain("large", rows, pd.DataFrame({"item_id": np.arange(5_000).astype(str), "title": "words"}))
    assert len(large.sequences) == len(large.users)
    start = time.process_time()
    splits = [leave_one_out(large), cold_items(large), cold_users(large, large)[1]]
    assert time.process_time() - start < 5  # a loop over the interactions would take longer
    assert all(len(split.train) == len(large.users) for split in splits)


def test_overlap_counts_shared_users() -> None:
    one, other = domain([(0, 1, 1), (1, 1, 1), (2, 1, 1)], name="one"), domain([(1, 1, 1), (5, 2, 2)], name="other")
    table = overlap(one, other)
    assert table["shared"].tolist() == [1, 1] and table["share"].tolist() == [1 / 3, 1 / 2]
    assert table.index.tolist() == ["one", "other"]


def test_real_leave_one_out_has_the_published_counts(real_domain: Callable) -> None:
    beauty, toys = (Domain.load(real_domain(name)).clean() for name in ("amazon_beauty", "amazon_toys"))
    split = leave_one_out(beauty)
    assert len(split.test) == len(split.valid) == 22_363
    assert len(split.train.items) - len(split.train) == 131_413  # next items to learn from
    assert overlap(beauty, toys)["shared"].tolist() == [2073, 2073]


def test_real_cold_users_and_items(real_domain: Callable) -> None:
    beauty, toys = (Domain.load(real_domain(name)).clean() for name in ("amazon_beauty", "amazon_toys"))
    split = cold_users(beauty, toys)[1]
    assert len(split.cold) == round(0.2 * 2073) and len(split.test) == 19_412 - len(split.cold)
    cold = cold_items(toys)
    assert len(np.unique(cold.test.targets)) <= round(0.1 * toys.n_items)
    assert len(cold.train.items) + len(cold.valid) + len(cold.test) <= len(toys.interactions)
    assert not np.isin(cold.train.items, np.r_[cold.valid.targets, cold.test.targets]).any()
