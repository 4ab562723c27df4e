"""Chapter 01: any file or frame gives the same domain, cleaning reaches the k-core and accounts for every row."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences, cleaning_steps, column_text, dense, has_text, text_columns

ROWS = pd.DataFrame(
    {
        "user_id": ["ann", "007", "ann", "NA", "007", "ann"],
        "item_id": ["1", "2", "2", "null", "1", "3"],
        "timestamp": [1_700_000_000 + 60 * i for i in (5, 1, 2, 3, 4, 6)],
    }
)
ITEMS = pd.DataFrame({"item_id": ["3", "2", "1", "null"], "title": ["three, quoted", "NA", "one", "nothing"]})

interactions = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 30)), min_size=1, max_size=80)


def frame(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position"]).astype({"user_id": str, "item_id": str})


def catalogue(n: int = 8) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [str(i) for i in range(n)], "title": [f"item number {i}" for i in range(n)]})


def lists(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in sequences]


# Sequences


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8), st.integers(0, 5), st.data())
def test_sequences_cut_as_lists_do(rows: list[list[int]], n: int, data: st.DataObject) -> None:
    sequences = Sequences.from_lists(rows)
    assert lists(sequences) == rows
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert sequences.rows.tolist() == [i for i, row in enumerate(rows) for _ in row]
    assert lists(sequences.truncate(n)) == [row[max(len(row) - n, 0) :] for row in rows]
    assert lists(sequences.drop_last(n)) == [row[: max(len(row) - n, 0)] for row in rows]
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), max_size=5)) if rows else []
    assert lists(sequences.take(np.array(chosen, dtype=int))) == [rows[i] for i in chosen]


def test_sequences_carry_times_and_types() -> None:
    times = np.arange(5, dtype=np.int64)
    sequences = Sequences(np.array([0, 2, 5]), np.array([3, 1, 4, 1, 5], dtype=np.int32), times)
    cut = sequences.take(np.array([False, True])).drop_last()
    assert cut.times.tolist() == [2, 3] and cut.items.dtype == np.int32 and cut.offsets.dtype == np.int64
    with pytest.raises(IndexError):
        sequences[2]


# Reading

WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "parquet": lambda table, path: table.to_parquet(path),
    "csv": lambda table, path: table.to_csv(path, index=False),
    "jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_domain(kind: str, zipped: str, tmp_path: Path) -> None:
    for stem, table in {"interactions": ROWS, "items": ITEMS}.items():
        path = tmp_path / f"{stem}.{kind}"
        WRITERS[kind](table, path)
        if zipped:
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    domain = Domain.load(tmp_path, name="demo")
    assert domain.interactions["user_id"].tolist() == ROWS["user_id"].tolist()  # 007 and NA stay what they are
    assert domain.interactions["timestamp"].tolist() == (ROWS["timestamp"] * 1000).tolist()
    assert domain.items["title"].tolist() == ITEMS["title"].tolist()
    clean = domain.clean(k_core=0, min_history=0)
    assert clean.users.tolist() == ["007", "NA", "ann"] and clean.item_ids.tolist() == ["1", "2", "3", "null"]
    assert lists(clean.sequences) == [[1, 0], [3], [1, 0, 2]]


ENGINES: dict[str, Callable] = {
    "pandas": lambda table: table,
    "pandas, objects": lambda table: table.astype({"item_id": object}),
    "polars": pl.from_pandas,
    "polars, lazy": lambda table: pl.from_pandas(table).lazy(),
    "pyarrow": pa.Table.from_pandas,
    "duckdb": lambda table: duckdb.connect().from_df(table),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_frame_gives_the_same_domain(engine: str) -> None:
    domain = Domain.from_frames(ENGINES[engine](ROWS), ENGINES[engine](ITEMS)).clean(k_core=0, min_history=0)
    expected = Domain.from_frames(ROWS, ITEMS).clean(k_core=0, min_history=0)
    assert lists(domain.sequences) == lists(expected.sequences)
    assert domain.items["title"].tolist() == expected.items["title"].tolist()


@pytest.mark.parametrize("engine", ["polars", "pyarrow"])
@given(interactions, st.integers(0, 3), st.sampled_from(["first", "keep"]))
@settings(max_examples=15, deadline=None)
def test_cleaning_steps_agree_on_engines(engine: str, rows: list, k: int, repeats: str) -> None:
    kept = []
    for convert in (ENGINES["pandas"], ENGINES[engine]):
        table = nw.from_native(convert(frame(rows)), eager_only=True)
        items = nw.from_native(convert(catalogue(6)), eager_only=True)
        for _, _, step in cleaning_steps(items, "position", k_core=k, repeats=repeats, min_history=2):
            table = step(table)
        kept.append(sorted(table.rows()))
    assert kept[0] == kept[1]


def test_other_names_by_mapping() -> None:
    rows = ROWS.rename(columns={"user_id": "reviewer", "item_id": "asin"}).assign(user_id="not this one")
    items = ITEMS.rename(columns={"item_id": "asin"})
    domain = Domain.from_frames(rows, items, columns={"user_id": "reviewer", "item_id": "asin"})
    assert domain.interactions["user_id"].tolist() == ROWS["user_id"].tolist()
    with pytest.raises(CrossrecError, match="no column 'reviwer'"):
        Domain.from_frames(rows, items, columns={"user_id": "reviwer", "item_id": "asin"})


@pytest.mark.parametrize(
    "values",
    [
        [1_700_000_000, 1_700_000_060],
        [1_700_000_000.0, 1_700_000_060.0],
        ["1700000000", "1700000060"],
        [1_700_000_000_000, 1_700_000_060_000],
        [1_700_000_000_000_000, 1_700_000_060_000_000],
        ["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"],
        ["2023-11-14 22:13:20", "2023-11-15T00:14:20+02:00"],
        pd.to_datetime(["2023-11-14 22:13:20", "2023-11-14 22:14:20"]),
        pd.to_datetime(["2023-11-14 23:13:20", "2023-11-14 23:14:20"]).tz_localize("Europe/Paris"),
    ],
    ids=str,
)
def test_times_in_any_form(values: object) -> None:
    rows = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["1", "2"], "timestamp": values})
    assert Domain.from_frames(rows, ITEMS).interactions["timestamp"].tolist() == [1_700_000_000_000, 1_700_000_060_000]


def test_unreadable_values_are_counted_not_raised() -> None:
    rows = ROWS.astype({"timestamp": object})
    rows.loc[0, "timestamp"], rows.loc[1, "user_id"], rows.loc[2, "item_id"] = "yesterday", None, ""
    clean = Domain.from_frames(rows, ITEMS).clean(k_core=0, min_history=0)
    assert clean.account.loc[0, "dropped"] == 3 and len(clean.interactions) == 3


BAD_TABLES = {
    "no user": (ROWS.drop(columns="user_id"), ITEMS, "shop, interactions: found columns item_id, timestamp"),
    "no time": (ROWS.drop(columns="timestamp"), ITEMS, "expected a column timestamp or position"),
    "no item": (ROWS, ITEMS.drop(columns="item_id"), "shop, items: found columns title"),
    "no text": (ROWS, ITEMS[["item_id"]].assign(price=3), "shop, items: found no text in columns item_id, price"),
    "silent": (ROWS, ITEMS.assign(title=" "), "no text in columns item_id, title"),
    "empty": (ROWS.iloc[:0], ITEMS, "shop, interactions: found no rows"),
    "floats": (ROWS.assign(user_id=[1.0, 2, 3, None, 5, 6]), ITEMS, r"column user_id: found 1.0 \(float64\) in row 1"),
    "lists": (ROWS.assign(item_id=["1", ["2"], "3", "4", "5", "6"]), ITEMS, r"column item_id: found .* in row 2"),
    "dates": (ROWS.assign(user_id=pd.Timestamp(0)), ITEMS, r"column user_id: found .* \(Timestamp\) in row 1"),
    "words": (ROWS.assign(timestamp="soon"), ITEMS, "column timestamp: found nothing that could be read"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_get_one_clear_line(case: str) -> None:
    rows, items, message = BAD_TABLES[case]
    with pytest.raises(CrossrecError, match=message) as error:
        Domain.from_frames(rows, items, name="shop")
    assert "\n" not in str(error.value) and "; expected " in str(error.value)


def test_bad_files_get_one_clear_line(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(CrossrecError, match=match) as error:
            Domain.load(tmp_path)
        assert "\n" not in str(error.value)

    fails(r"no file interactions\.\*")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    ROWS.to_parquet(tmp_path / "interactions.parquet")
    whole = (tmp_path / "interactions.parquet").read_bytes()
    (tmp_path / "interactions.parquet").write_bytes(whole[: len(whole) // 2])
    fails("interactions.parquet: found a file that cannot be read")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,position\n")
    fails("both interactions.parquet and interactions.csv")
    (tmp_path / "interactions.parquet").unlink()
    fails("interactions.csv: found no rows")
    (tmp_path / "interactions.csv").write_text("")
    fails("interactions.csv: found a file that cannot be read")
    (tmp_path / "interactions.csv").write_bytes(b"user_id,item_id,position\n\xff\xfe,1,1\n")
    fails("interactions.csv: found a file that cannot be read")
    (tmp_path / "interactions.csv").unlink()
    (tmp_path / "interactions.jsonl.gz").write_bytes(gzip.compress(b'{"user_id": "a"}\n' * 900)[:40])
    fails("interactions.jsonl.gz: found a file that cannot be read")
    (tmp_path / "interactions.jsonl.gz").unlink()
    (tmp_path / "interactions.jsonl").write_text('{"user_id": "a", "item_id": "1", "position": 1}\n[1, 2]\n')
    fails("interactions.jsonl: found a file that cannot be read")


@pytest.mark.parametrize("name", ["no/such/folder", "nobody"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(CrossrecError, match="neither a folder nor a known data set"):
        Domain.load(name)


def test_frame_of_an_unknown_kind() -> None:
    with pytest.raises(CrossrecError, match="found a dict"):
        Domain.from_frames({"user_id": ["a"]}, ITEMS)


# Text columns


def test_text_columns_are_found_by_looking() -> None:
    items = pd.DataFrame(
        {
            "item_id": ["1", "2"],
            "price": [1.5, 2.0],
            "tags": [["a", "b"], None],
            "written": ["['x', 'y']", "[]"],
            "nothing": [None, None],
            "title": [None, "[live]"],
        }
    )
    assert text_columns(items) == ["title", "tags", "written"]
    assert column_text(items["tags"]).tolist() == ["a, b", ""]
    assert column_text(items["written"]).tolist() == ["x, y", ""]
    assert column_text(items["title"]).tolist() == ["", "[live]"]
    assert has_text(items).tolist() == [True, True]


# Cleaning


def core_by_hand(pairs: list[tuple[str, str]], k: int) -> set[tuple[str, str]]:
    """The k-core one pair at a time, in an order of its own."""
    left = list(pairs)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        weak = next((pair for pair in left if users[pair[0]] < k or items[pair[1]] < k), None)
        if weak is None:
            return set(left)
        left.remove(weak)


@pytest.mark.parametrize("seed", range(8))
def test_k_core_is_that_of_the_plain_way(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(15):
        table = frame(random.integers(0, 8, size=(random.integers(10, 60), 3)).tolist())
        table = table.drop_duplicates(["user_id", "item_id"])
        k = int(random.integers(1, 5))
        kept = dense(nw.from_native(table, eager_only=True), k, k).to_native()
        pairs = list(zip(table["user_id"], table["item_id"], strict=True))
        assert set(zip(kept["user_id"], kept["item_id"], strict=True)) == core_by_hand(pairs, k)


def test_k_core_of_a_chain_falls_link_by_link() -> None:
    chain = frame([(i, i + step, 0) for i in range(30) for step in (0, 1)])
    assert len(dense(nw.from_native(chain, eager_only=True), 2, 2)) == 0
    ring = frame([(i, (i + step) % 30, 0) for i in range(30) for step in (0, 1)])
    assert len(dense(nw.from_native(ring, eager_only=True), 2, 2)) == 60


@given(interactions, st.integers(0, 3), st.sampled_from(["first", "keep"]), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_clean_keeps_its_promises(rows: list, k: int, repeats: str, min_history: int) -> None:
    domain = Domain.from_frames(frame(rows), catalogue(6))
    try:
        clean = domain.clean(k_core=k, repeats=repeats, min_history=min_history)
    except CrossrecError as error:
        assert "no interaction of" in str(error)
        return
    kept = clean.interactions
    assert (kept.groupby("user_id").size() >= max(k, min_history)).all()
    assert (kept.groupby("item_id").size() >= k).all()
    assert set(clean.items["item_id"]) == set(kept["item_id"]) <= set(catalogue(6)["item_id"])
    assert not kept.duplicated(["user_id", "item_id"] + ["position"] * (repeats == "keep")).any()
    assert kept.equals(kept.sort_values(["user_id", "position"], kind="stable"))
    for _, steps in clean.account.groupby("table"):
        assert steps["rows_in"].tolist()[1:] == steps["rows_out"].tolist()[:-1]
        assert (steps["rows_in"] - steps["rows_out"] == steps["dropped"]).all()
    again = clean.clean(k_core=k, repeats=repeats, min_history=min_history)
    assert again.interactions.equals(kept) and again.items.equals(clean.items)
    assert clean.sequences.lengths.sum() == len(kept) and clean.sequences.lengths.min() > 0
    assert [clean.item_ids[i] for i in clean.sequences.items] == kept["item_id"].tolist()


def test_first_meeting_is_kept_and_ties_keep_their_order() -> None:
    rows = frame([(1, 5, 9), (1, 4, 2), (1, 3, 2), (1, 5, 1), (1, 4, 7)])
    clean = Domain.from_frames(rows, catalogue()).clean(k_core=0)
    assert clean.interactions["item_id"].tolist() == ["5", "4", "3"]
    assert clean.interactions["position"].tolist() == [1, 2, 2]
    kept = Domain.from_frames(rows, catalogue()).clean(k_core=0, repeats="keep")
    assert kept.interactions["item_id"].tolist() == ["5", "4", "3", "4", "5"]


def test_position_orders_what_has_the_same_time() -> None:
    rows = frame([(1, 0, 3), (1, 1, 1), (1, 2, 2)]).assign(timestamp=["2024-01-01", "2024-01-01", "2023-01-01"])
    clean = Domain.from_frames(rows, catalogue()).clean(k_core=0)
    assert clean.item_ids[clean.sequences[0]].tolist() == ["2", "1", "0"] and clean.has_time


def test_same_item_listed_twice_counts_once() -> None:
    items = pd.concat([ITEMS, ITEMS.assign(title="later and ignored")])
    domain = Domain.from_frames(ROWS, items)
    with pytest.raises(CrossrecError, match=r"Call clean\(\) first"):
        domain.sequences  # noqa: B018  (the property is what raises)
    clean = domain.clean(k_core=0, min_history=0)
    assert "later and ignored" not in clean.items["title"].tolist()
    assert clean.account.set_index("step").loc["same id", "dropped"] == len(ITEMS)


def test_nothing_left_says_which_step_took_most() -> None:
    with pytest.raises(CrossrecError, match="no interaction of 6; 6 went because its user or its item has"):
        Domain.from_frames(ROWS, ITEMS, name="shop").clean(k_core=9)
    with pytest.raises(CrossrecError, match="6 went because its item is not in the catalogue"):
        Domain.from_frames(ROWS, ITEMS.assign(item_id=["a", "b", "c", "d"])).clean()


def test_silent_items_left() -> None:
    items = ITEMS.assign(title=[None, None, None, "a word about an item that nobody met"])
    with pytest.raises(CrossrecError, match="no text for any of its items"):
        Domain.from_frames(ROWS[ROWS["item_id"] != "null"], items).clean(k_core=0, min_history=0)


@pytest.mark.parametrize("wrong", [{"k_core": -1}, {"k_core": 2.5}, {"repeats": "last"}, {"min_history": None}])
def test_settings_that_mean_nothing(wrong: dict) -> None:
    with pytest.raises(CrossrecError, match=next(iter(wrong))):
        Domain.from_frames(ROWS, ITEMS).clean(**wrong)


# Looking


def test_describe_counts_by_hand() -> None:
    facts = Domain.from_frames(ROWS, ITEMS.assign(title=["three", None, "one", "nothing"])).describe()
    assert facts["users"] == 3 and facts["items"] == 4 and facts["interactions"] == 6
    assert facts["density"] == 0.5 and facts["mean history"] == 2.0 and facts["longest history"] == 3
    assert facts["items with text"] == 0.75 and facts["first day"] == "2023-11-14"


@pytest.mark.parametrize("time", [True, False])
def test_plot_has_named_axes(time: bool) -> None:
    rows = ROWS if time else ROWS.rename(columns={"timestamp": "position"})
    figure = Domain.from_frames(rows, ITEMS).plot()
    assert len(figure.axes) == (3 if time else 2)
    assert all(axes.get_title(loc="left") and axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize(
    ("name", "users", "items", "rows"),
    [("amazon_beauty", 22_363, 12_101, 198_502), ("amazon_toys", 19_412, 11_924, 167_597)],
)
def test_published_5_core_stays_whole(real_domain: Callable, name: str, users: int, items: int, rows: int) -> None:
    domain = Domain.load(real_domain(name)).clean()
    assert (len(domain.users), domain.n_items, len(domain.interactions)) == (users, items, rows)
    assert domain.account["dropped"].sum() == 0
