"""Chapter 01d: flat arrays are what lists would be, from any engine, in memory or mapped from disk."""

import json
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.read import ROW
from crossrec.sequences import Log, Ragged, Sequences, load_log, log_of, save_log
from tests.tables import ENGINES, SPACE, lists


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8), st.integers(0, 5), st.data())
def test_sequences_cut_as_lists_do(rows: list[list[int]], n: int, data: st.DataObject) -> None:
    sequences = Sequences.from_lists(rows)
    assert lists(sequences) == rows and len(sequences) == len(rows)
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert sequences.rows.tolist() == [i for i, row in enumerate(rows) for _ in row]
    assert lists(sequences.truncate(n)) == [row[max(len(row) - n, 0) :] for row in rows]
    assert lists(sequences.drop_last(n)) == [row[: max(len(row) - n, 0)] for row in rows]
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), max_size=5)) if rows else []
    assert lists(sequences.take(np.array(chosen, dtype=int))) == [rows[i] for i in chosen]
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    assert lists(sequences.take(np.array(mask, dtype=bool))) == [
        row for row, yes in zip(rows, mask, strict=True) if yes
    ]


def test_sequences_carry_times_and_types() -> None:
    times = np.arange(5, dtype=np.int64)
    sequences = Sequences(np.array([0, 2, 5]), np.array([3, 1, 4, 1, 5], dtype=np.int32), times)
    cut = sequences.take(np.array([False, True])).drop_last()
    assert cut.times.tolist() == [2, 3] and cut.items.dtype == np.int32 and cut.offsets.dtype == np.int64
    for row in (2, -3):
        with pytest.raises(IndexError):
            sequences[row]
    assert sequences[-1].tolist() == [4, 1, 5] and isinstance(cut, Ragged)


interactions = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=40)
USERS = np.array(["ann", "bob", "cid", "dan", "eve"], dtype=object)


@given(interactions, st.sampled_from(["timestamp", "position"]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_flat_arrays_are_the_sorted_table_on_every_engine(
    tmp_path_factory: pytest.TempPathFactory, rows: list, order: str, renumber: bool
) -> None:
    table = pd.DataFrame(rows, columns=["user", "item", order])
    table.insert(0, ROW, range(1, len(rows) + 1))
    table["rating"] = np.where(table["item"] % 3 == 0, np.nan, table["item"] / 2)
    shuffled = table.sample(frac=1, random_state=len(rows))  # the number of a row decides ties, not its place
    expected = table.sort_values(["user", order, ROW], kind="stable")
    left = np.unique(table["item"]) if renumber else np.arange(10)
    for convert in ENGINES.values():
        out = tmp_path_factory.mktemp("out") if renumber else None
        native = nw.from_native(convert(shuffled)).lazy()
        log, kept = log_of(native, order, USERS, None if renumber else left, SPACE, out)
        assert kept.tolist() == left.tolist() and log.order == order
        assert log.users.tolist() == USERS[np.unique(table["user"])].tolist()
        assert lists(log.sequences) == [
            np.searchsorted(left, group["item"]).tolist() for _, group in expected.groupby("user")
        ]
        assert log.when.tolist() == expected[order].tolist()
        assert (log.sequences.times is log.when) == (order == "timestamp")
        np.testing.assert_array_equal(log.ratings, expected["rating"].to_numpy(np.float32))
        assert isinstance(log.when, np.memmap) == renumber


def test_position_breaks_ties_in_time() -> None:
    table = pd.DataFrame(
        {ROW: [1, 2, 3, 4], "user": [0] * 4, "item": [0, 1, 2, 3], "timestamp": [5, 5, 1, 5], "position": [3, 1, 9, 2]}
    )
    log, _ = log_of(nw.from_native(table).lazy(), "timestamp", USERS, None, SPACE)
    assert log.sequences.items.tolist() == [2, 1, 3, 0]


# On disk


def example() -> Log:
    when = np.arange(6, dtype=np.int64)
    sequences = Sequences(np.array([0, 2, 2, 6]), np.array([3, 1, 4, 1, 5, 2], dtype=np.int32), when)
    return Log(
        np.array(["a", "b\0", "ü 🙂"], dtype=object),
        sequences,
        when,
        np.array([1, np.nan, 3, 4, 5, 6], dtype=np.float32),
    )


@pytest.mark.parametrize("rated", [True, False])
@pytest.mark.parametrize("order", ["timestamp", "position"])
def test_saved_and_loaded_it_is_the_same_but_mapped(order: str, rated: bool, tmp_path: Path) -> None:
    log = example()
    sequences = log.sequences if order == "timestamp" else Sequences(log.sequences.offsets, log.sequences.items)
    log = Log(log.users, sequences, log.when, log.ratings if rated else None)
    save_log(log, tmp_path)
    again = load_log(tmp_path)
    assert (
        again.order == order
        and again.users.tolist() == log.users.tolist()
        and lists(again.sequences) == lists(sequences)
    )
    assert again.when.tolist() == log.when.tolist() and (again.sequences.times is None) == (order == "position")
    assert isinstance(again.sequences.items, np.memmap) and isinstance(again.when, np.memmap)
    assert (again.ratings is None) == (not rated)
    if rated:
        np.testing.assert_array_equal(again.ratings, log.ratings)


DAMAGE = {
    "missing": lambda folder: (folder / "items.npy").unlink(),
    "cut": lambda folder: (folder / "when.npy").write_bytes((folder / "when.npy").read_bytes()[:-8]),
    "shorter": lambda folder: np.save(folder / "items.npy", np.zeros(5, np.int32)),
    "other type": lambda folder: np.save(folder / "items.npy", np.zeros(6, np.int64)),
    "falling": lambda folder: np.save(folder / "offsets.npy", np.array([0, 4, 2, 6])),
    "outside": lambda folder: np.save(folder / "offsets.npy", np.array([0, 2, 2, 7])),
    "pickle": lambda folder: np.save(folder / "items.npy", np.array([{}] * 6, dtype=object)),
    "no facts": lambda folder: (folder / "log.json").write_text("{"),
    "other facts": lambda folder: (folder / "log.json").write_text("[]"),
    "users": lambda folder: (folder / "users.parquet").write_bytes(b"PAR1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    save_log(example(), tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(CrossrecError, match=f"{tmp_path}.*: found .*Save the domain again") as error:
        load_log(tmp_path)
    assert "\n" not in str(error.value)


def test_facts_are_plain(tmp_path: Path) -> None:
    save_log(example(), tmp_path)
    facts = json.loads((tmp_path / "log.json").read_text())
    assert facts == {"order": "timestamp", "users": 3, "interactions": 6, "rated": True}


@pytest.mark.parametrize("name", ["items", "when", "offsets"])
def test_an_empty_file_is_named(name: str, tmp_path: Path) -> None:
    log = Log(np.array(["a"], object), Sequences(np.array([0, 1]), np.zeros(1, np.int32), None), np.zeros(1, np.int64))
    save_log(log, tmp_path)
    (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(CrossrecError, match="missing or broken"):
        load_log(tmp_path)
