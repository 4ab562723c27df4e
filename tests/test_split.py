"""Chapter 03: splits are disjoint, ordered, deterministic, nested, and nothing learned is later than what is asked."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.split import Split, before, global_time, guard, leave_one_out, overlap, split_domains, time_cut

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
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=80, deadline=None)
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
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=50, deadline=None)
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
