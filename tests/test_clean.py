"""Chapter 01c: a row goes for one reason, which is written down; the k-core is whole; engines agree."""

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

from crossrec.clean import Cleaned, Cleaning, clean_interactions, dense, write_dropped
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.interactions import check_interactions
from crossrec.read import ROW, Workspace, numbered, read_file
from tests.tables import ENGINES, ITEMS, ROWS, SPACE, catalogue, clean_temp, frame

NOTHING = dict(k_core=0, repeats="keep", min_history=0, duplicates="keep")

# Every reason once or more. Columns: user, item, time, rating, the step that drops the row ("" if none does).
CASES = [
    ("ann", "tea", "2024-01-01T08:00", "5", ""),
    ("ann", "tea", "2024-01-01T08:00", "4", "duplicate"),
    ("ann", "tea", "2024-01-03", "4", "repeat"),
    ("ann", "tea", "2023-12-31", "1", "low rating"),
    ("ann", "milk", "2024-01-02", "4", ""),
    ("ann", "bread", "2024-01-04", "3", ""),
    (None, "milk", "2024-01-02", "4", "missing id"),
    ("  ", "milk", "2024-01-02", "4", "missing id"),
    ("bob", "", "2024-01-02", "4", "missing id"),
    (None, None, "never", None, "missing id"),
    ("bob", "milk", "soon", "4", "unreadable time"),
    ("bob", "milk", "2024-02-30", "4", "unreadable time"),
    ("bob", "milk", None, "4", "unreadable time"),
    ("bob", "milk", "1969-12-31", "4", "impossible time"),
    ("bob", "milk", "3000-01-01", "4", "impossible time"),
    ("bob", "milk", "2024-01-02", "2.9", "low rating"),
    ("bob", "milk", "2024-01-02", None, "unreadable rating"),
    ("bob", "gin", "2024-01-02", "5", "unknown item"),
    ("bob", "stone", "2024-01-02", "5", "silent item"),
    ("bob", "tea", "2024-01-05", "3", ""),
    ("bob", "milk", "2024-01-06", "3", ""),
    ("bob", "bread", "2024-01-07", "3", ""),
    ("cid", "tea", "2024-01-01", "5", ""),
    ("cid", "milk", "2024-01-02", "5", ""),
    ("cid", "bread", "2024-01-03", "5", ""),
    ("cid", "rare", "2024-01-04", "5", "k-core"),
    ("dan", "tea", "2024-01-01", "5", "short history"),
    ("dan", "milk", "2024-01-02", "5", "short history"),
    ("eve", "tea", "2024-01-02", "5", "k-core"),
    *[("bot", f"thing {i}", f"2024-01-01T00:00:{i:02}", "5", "busy user") for i in range(9)],
    ("Ann", "bread", "2024-01-02", "5", "k-core"),
]
LOG = pd.DataFrame(CASES, columns=["user_id", "item_id", "timestamp", "rating", "step"])
THINGS = pd.DataFrame(
    {
        "item_id": ["milk", "tea", "bread", "rare", "stone", "milk", "tea", None, "Milk "]
        + [f"thing {i}" for i in range(9)],
        "title": ["Oat milk", "Green tea", "Rye bread", "A rarity", " ", "Oat drink", "Green tea", "no id", "?"]
        + ["a thing"] * 9,
    }
)
ALL = dict(k_core=2, min_history=3, min_rating=3, rate_limit=4, need_text=True)
ACCOUNT = [
    ("items", "missing id", 18, 1, 8),
    ("items", "same item", 17, 1, 7),
    ("items", "conflict", 16, 1, 6),
    ("interactions", "missing id", 39, 4, 7),
    ("interactions", "unreadable time", 35, 3, 11),
    ("interactions", "impossible time", 32, 2, 14),
    ("interactions", "unreadable rating", 30, 1, 17),
    ("interactions", "low rating", 29, 2, 4),
    ("interactions", "unknown item", 27, 1, 18),
    ("interactions", "silent item", 26, 1, 19),
    ("interactions", "duplicate", 25, 1, None),
    ("interactions", "repeat", 24, 1, None),
    ("interactions", "busy user", 23, 9, None),
    ("interactions", "k-core", 14, 3, None),
    ("interactions", "short history", 11, 2, None),
]


def cleaned(log: object, items: pd.DataFrame = THINGS, **options: object) -> Cleaned:
    table = check_interactions(numbered(log, "log", SPACE), "log")
    return clean_interactions(table, items, Cleaning(**options), Workspace())


def rows_of(done: Cleaned) -> pd.DataFrame:
    """What is left, with ids, in the order of the table."""
    rows = done.rows.join(done.users, on="user", how="left").sort(ROW).collect("pandas").to_native()
    rows["item_id"] = done.items["item_id"].to_numpy()[rows["item"].astype(int)]
    rows = rows.astype({ROW: "int64", "user": "int64", "item": "int64"}).astype({"user_id": object, "item_id": object})
    return rows[sorted(rows.columns)].reset_index(drop=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_step_drops_what_it_says_and_nothing_else(engine: str, tmp_path: Path) -> None:
    log = ENGINES[engine](LOG.drop(columns="step"))
    done = cleaned(log, **ALL)
    kept = LOG.index[LOG["step"] == ""] + 1
    assert rows_of(done)[ROW].tolist() == kept.tolist()
    lines = [
        tuple(line[name] for name in ("table", "step", "rows_in", "dropped", "first_row"))
        for line in done.account.lines
    ]
    assert lines[: len(ACCOUNT)] == ACCOUNT
    assert [line[:3] for line in lines[len(ACCOUNT) :]] == [("users", "similar ids", 2), ("items", "similar ids", 2)]
    path = tmp_path / "dropped.parquet"
    write_dropped(check_interactions(numbered(log, "log", SPACE), "log"), done, path)
    dropped = pd.read_parquet(path)
    expected = LOG[LOG["step"] != ""]
    assert (
        dropped["row"].tolist() == (expected.index + 1).tolist()
        and dropped["step"].tolist() == expected["step"].tolist()
    )
    for column in ("user_id", "item_id", "timestamp", "rating"):
        assert dropped[column].fillna("-").tolist() == expected[column].fillna("-").tolist()


def test_account_adds_up_and_gives_reasons() -> None:
    table = cleaned(LOG.drop(columns="step"), **ALL).account.table()
    for _, steps in table[table["step"] != "similar ids"].groupby("table"):
        assert steps["rows_in"].tolist()[1:] == steps["rows_out"].tolist()[:-1]
        assert (steps["rows_in"] - steps["rows_out"] == steps["dropped"]).all()
    reasons = dict(zip(table["step"], table["reason"], strict=True))
    assert reasons["low rating"] == "its rating is below 3"
    assert reasons["busy user"] == "its user is over 4 times as busy as the middle user"
    assert reasons["k-core"] == "its user or its item has fewer than 2 interactions"
    assert reasons["conflict"] == "an earlier row has the same id and another text"


def test_steps_that_are_off_stand_in_no_account() -> None:
    steps = [
        line["step"]
        for line in cleaned(LOG.drop(columns="step"), **NOTHING).account.lines
        if line["table"] == "interactions"
    ]
    assert steps == ["missing id", "unreadable time", "impossible time", "unknown item"]
    with_position = LOG.drop(columns=["step", "timestamp"]).assign(position=range(len(LOG)))
    steps = [
        line["step"] for line in cleaned(with_position, **NOTHING).account.lines if line["table"] == "interactions"
    ]
    assert steps == ["missing id", "unreadable position", "unknown item"]


# One step at a time


def kept_rows(log: pd.DataFrame, items: pd.DataFrame | None = None, **options: object) -> list[int]:
    return rows_of(cleaned(log, catalogue(20) if items is None else items, **NOTHING | options))[ROW].tolist()


def test_duplicates_are_rows_with_user_item_and_time() -> None:
    log = frame([(1, 1, 5), (1, 1, 5), (1, 1, 6), (2, 1, 5), (1, 2, 5), (1, 1, 5)])
    assert kept_rows(log, duplicates="drop") == [1, 3, 4, 5]
    assert kept_rows(log.assign(rating=range(6)), duplicates="drop") == [1, 3, 4, 5]
    assert kept_rows(log) == [1, 2, 3, 4, 5, 6]


def test_of_repeats_the_earliest_stays_and_of_those_the_first_row() -> None:
    log = frame([(1, 1, 9), (1, 1, 2), (1, 2, 4), (1, 1, 2), (2, 1, 9)])
    assert kept_rows(log, repeats="first") == [2, 3, 5]
    assert kept_rows(log, repeats="first", duplicates="drop") == [2, 3, 5]


def test_ratings_below_the_threshold_or_missing_go() -> None:
    log = frame([(1, i, i) for i in range(5)]).assign(rating=[4.0, 3.9, None, 5.0, -1.0])
    assert (
        kept_rows(log, min_rating=4) == [1, 4]
        and kept_rows(log, min_rating=-1) == [1, 2, 4, 5]
        and kept_rows(log) == [1, 2, 3, 4, 5]
    )
    nan = pl.from_pandas(log).with_columns(rating=pl.Series([4.0, 3.9, float("nan"), 5.0, -1.0]))
    assert kept_rows(nan, min_rating=4) == [1, 4]
    with pytest.raises(CrossrecError, match="log: found no column rating"):
        kept_rows(log.drop(columns="rating"), min_rating=1)


def test_a_busy_user_is_told_by_the_pace_of_the_middle_one() -> None:
    day = 86_400
    calm = [(str(u), str(i), 1_700_000_000 + day * i) for u in range(5) for i in range(4)]  # one a day
    keen = [("keen", str(i), 1_700_000_000 + day * (i // 3)) for i in range(9)]  # three a day
    bot = [("bot", str(i), 1_700_000_000 + i) for i in range(20)]  # twenty a day
    log = pd.DataFrame(calm + keen + bot, columns=["user_id", "item_id", "timestamp"])
    users = [set(log.iloc[np.array(kept_rows(log, rate_limit=limit)) - 1]["user_id"]) for limit in (20, 19.9, 3, 2.9)]
    everyone = {*"01234", "keen", "bot"}
    assert users == [everyone, everyone - {"bot"}, everyone - {"bot"}, everyone - {"bot", "keen"}]


def test_without_times_a_busy_user_is_told_by_the_number_of_rows() -> None:
    log = frame([(u, i, i) for u in range(3) for i in range(2)] + [(9, i, i) for i in range(7)])
    assert len(kept_rows(log, rate_limit=3.5)) == 13 and len(kept_rows(log, rate_limit=3.4)) == 6


def test_first_row_is_the_first_that_went_for_that_reason() -> None:
    log = pd.DataFrame({"user_id": ["a", None, "b", None], "item_id": ["1", "1", "77", "77"], "position": [1, 2, 3, 4]})
    lines = {line["step"]: line["first_row"] for line in cleaned(log, catalogue(3), **NOTHING).account.lines}
    assert lines == {
        "missing id": 2,
        "unreadable position": None,
        "unknown item": 3,
        "same item": None,
        "conflict": None,
    }


def test_a_catalogue_with_an_odd_index_has_the_same_rows() -> None:
    done = cleaned(LOG.drop(columns="step"), THINGS.set_axis([f"row {i}" for i in range(len(THINGS))]), **ALL)
    assert [line["first_row"] for line in done.account.lines[:3]] == [8, 7, 6]


def test_ids_that_differ_by_case_or_spaces_are_reported_and_kept() -> None:
    items = pd.DataFrame({"item_id": ["A1", "a1", "A1 ", "b"], "title": ["w", "x", "y", "z"]})
    log = pd.DataFrame(
        {"user_id": ["u", "u", "U", "u\u00a0", "v"], "item_id": ["A1", "a1", "A1 ", "b", "b"], "position": range(5)}
    )
    done = cleaned(log, items, **NOTHING)
    assert (
        len(rows_of(done)) == 5
        and len(done.items) == 4
        and rows_of(done)["item_id"].tolist() == log["item_id"].tolist()
    )
    similar = {line["table"]: line for line in done.account.lines if line["step"] == "similar ids"}
    assert similar["items"]["reason"] == "kept, but 3 ids differ only by spaces or case, such as 'A1' and 'a1'"
    assert similar["users"]["reason"] == "kept, but 3 ids differ only by spaces or case, such as 'U' and 'u\\xa0'"
    assert similar["items"]["dropped"] == 0 == similar["users"]["dropped"]


WRONG = [
    {"k_core": -1}, {"k_core": 2.5}, {"k_core": True}, {"min_history": None}, {"repeats": "last"}, {"duplicates": True},
    {"min_rating": "4"}, {"min_rating": float("nan")}, {"rate_limit": 1}, {"rate_limit": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_settings_that_mean_nothing(wrong: dict) -> None:
    with pytest.raises(CrossrecError, match=next(iter(wrong))):
        Cleaning(**wrong)


# The k-core


def core_by_hand(pairs: list[tuple[int, int]], per_user: int, per_item: int) -> set[tuple[int, int]]:
    """The k-core one pair at a time, in an order of its own."""
    left = list(pairs)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        weak = next((pair for pair in left if users[pair[0]] < per_user or items[pair[1]] < per_item), None)
        if weak is None:
            return set(left)
        left.remove(weak)


def core(table: pd.DataFrame, per_user: int, per_item: int) -> set[tuple[int, int]]:
    kept = dense(nw.from_native(table).lazy(), per_user, per_item, Workspace()).collect("pandas").to_native()
    return set(zip(kept["user"], kept["item"], strict=True))


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_k_core_is_that_of_the_plain_way(pairs: set, per_user: int, per_item: int) -> None:
    table = pd.DataFrame(sorted(pairs), columns=["user", "item"], dtype="int64")
    assert core(table, per_user, per_item) == core_by_hand(sorted(pairs), per_user, per_item)


def test_k_core_of_a_chain_falls_link_by_link() -> None:
    chain = pd.DataFrame([(i, i + step) for i in range(30) for step in (0, 1)], columns=["user", "item"])
    assert core(chain, 2, 2) == set()
    assert len(core(chain.assign(item=chain["item"] % 30), 2, 2)) == 60


# Engines


people = st.sampled_from(["a", "b", "A", "c ", "c", "", None, "ü"])
goods = st.sampled_from(["1", "2", "3", "4", "x", "", None])
times = st.sampled_from(
    [
        "2024-01-01",
        "2024-01-01T00:00:00+00:00",
        "2024-01-02 05:00",
        "2023-12-31",
        "3000-01-01",
        "1950-01-01",
        "soon",
        "",
        None,
    ]
)
stars = st.sampled_from(["1", "4", "5.0", "4e0", "none", None])
tables = st.lists(st.tuples(people, goods, times, stars), min_size=1, max_size=40).map(
    lambda rows: pd.DataFrame(
        [("a", "1", "2024-01-01", "5")] * len(rows) + rows,
        columns=["user_id", "item_id", "timestamp", "rating"],
        dtype="str",
    )
)


@given(
    tables,
    st.integers(0, 3),
    st.sampled_from(["first", "keep"]),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from([None, 4]),
    st.sampled_from([None, 1.5]),
)
@settings(max_examples=10, deadline=None)
def test_engines_agree_on_rows_account_arrays_and_dropped_rows(
    tmp_path_factory: pytest.TempPathFactory,
    table: pd.DataFrame,
    k: int,
    repeats: str,
    duplicates: str,
    rating: float | None,
    rate: float | None,
) -> None:
    options = dict(k_core=k, repeats=repeats, duplicates=duplicates, min_rating=rating, rate_limit=rate, min_history=2)
    folder, results = tmp_path_factory.mktemp("dropped"), {}
    for number, (name, convert) in enumerate(ENGINES.items()):
        path = folder / f"{number}.parquet"
        domain = Domain.from_frames(convert(table), convert(catalogue(4)), name="d")
        try:
            clean = domain.clean(**options, dropped=path)
            arrays = [
                clean.sequences.offsets,
                clean.sequences.items,
                clean.sequences.times,
                clean.log.ratings.view(np.int32),
            ]
            left = [clean.account, clean.items, *(pd.DataFrame(array) for array in arrays), pd.DataFrame(clean.users)]
        except CrossrecError as error:
            left = [pd.DataFrame([str(error)])]
        results[name] = [*left, pd.read_parquet(path)]
    for name, result in results.items():
        assert len(result) == len(results["pandas"])
        for ours, theirs in zip(result, results["pandas"], strict=True):
            pd.testing.assert_frame_equal(ours, theirs, check_dtype=False, obj=name)


NATIVE_IDS = {"text": lambda n: n.astype(str), "numbers": lambda n: n, "small numbers": lambda n: n.astype("int32")}


@pytest.mark.parametrize("ids", NATIVE_IDS)
def test_engines_agree_on_a_larger_log_with_times_of_their_own(ids: str) -> None:
    random = np.random.default_rng(5)
    users, items, days = random.zipf(1.4, 4000) % 300, random.zipf(1.3, 4000) % 120, random.integers(0, 400, 4000)
    log = pd.DataFrame(
        {
            "user_id": NATIVE_IDS[ids](users),
            "item_id": NATIVE_IDS[ids](items),
            "timestamp": pd.Timestamp("2023-01-01") + pd.to_timedelta(days, unit="D"),
        }
    )
    cleans = [
        Domain.from_frames(convert(log), catalogue(110), name="d").clean(k_core=3, rate_limit=8)
        for convert in ENGINES.values()
    ]
    assert 1000 < len(cleans[0].interactions) < 3500 and cleans[0].account["dropped"].gt(0).sum() >= 5
    for clean in cleans[1:]:
        assert clean.interactions.equals(cleans[0].interactions) and clean.account.equals(cleans[0].account)


@pytest.mark.parametrize("engine", ["polars, lazy", "duckdb"])
def test_no_row_comes_to_python_before_the_end(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    log = pd.DataFrame(
        {
            "user_id": random.integers(0, 900, 20_000),
            "item_id": random.integers(0, 900, 20_000),
            "timestamp": random.integers(10**9, 10**9 + 10**7, 20_000),
            "rating": 5,
        }
    )
    lazy, seen, collect = ENGINES[engine](log.sample(frac=1, random_state=1)), [], nw.LazyFrame.collect

    def watched(frame: nw.LazyFrame, *arguments: object, **options: object) -> nw.DataFrame:
        result = collect(frame, *arguments, **options)
        seen.append(len(result))
        return result

    monkeypatch.setattr(nw.LazyFrame, "collect", watched)
    table = check_interactions(numbered(lazy, "log", workspace := Workspace()), "log")
    done = clean_interactions(table, catalogue(850), Cleaning(rate_limit=9, min_rating=3), workspace)
    assert 10 < len(seen) < 60 and max(seen) <= 12, seen  # a handful of counts; never users, items or rows
    assert type(done.rows.to_native()) in (pl.LazyFrame, duckdb.DuckDBPyRelation)


def test_a_relation_is_cleaned_in_the_connection_it_came_from() -> None:
    connection = duckdb.connect()
    connection.sql(
        "CREATE TABLE log AS SELECT range % 7 AS user_id, range % 5 AS item_id, 1700000000 + range AS timestamp "
        "FROM range(70)"
    )
    clean = Domain.from_frames(connection.table("log"), catalogue(5)).clean()
    assert len(clean.interactions) == 35
    connection.sql("DROP TABLE log")
    assert clean.sequences.lengths.tolist() == [5] * 7 and connection.sql("FROM duckdb_tables()").fetchall() == []


# Dropped rows


@pytest.mark.parametrize(
    "name", ["dropped.parquet", "dropped.csv", "dropped.jsonl", "dropped.csv.gz", "dropped.jsonl.gz"]
)
def test_dropped_rows_in_any_format(name: str, tmp_path: Path) -> None:
    log, path = LOG.drop(columns="step"), tmp_path / "new folder" / name
    Domain.from_frames(log, THINGS).clean(**ALL, dropped=path)
    found = read_file(path, workspace := Workspace()).sort(ROW).collect("pandas").to_native()
    assert list(found.columns) == [ROW, "row", "step", "reason", "user_id", "item_id", "timestamp", "rating"]
    expected = LOG[LOG["step"] != ""]
    assert (
        found["row"].astype(int).tolist() == (expected.index + 1).tolist()
        and found["step"].tolist() == expected["step"].tolist()
    )
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert len(list(workspace.folder.iterdir())) <= 1


def test_with_nothing_dropped_the_file_has_a_header_and_no_rows(tmp_path: Path) -> None:
    Domain.from_frames(ROWS, ITEMS).clean(k_core=0, min_history=0, dropped=tmp_path / "dropped.csv")
    assert (tmp_path / "dropped.csv").read_text() == "row,step,reason,user_id,item_id,timestamp\n"


def test_dropped_rows_are_written_when_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="no interaction of 6; 6 went because its user or its item has"):
        Domain.from_frames(ROWS, ITEMS).clean(k_core=9, dropped=tmp_path / "dropped.parquet")
    dropped = pd.read_parquet(tmp_path / "dropped.parquet")
    assert dropped["row"].tolist() == [1, 2, 3, 4, 5, 6] and set(dropped["step"]) == {"k-core"}
    assert dropped["timestamp"].tolist() == ROWS["timestamp"].tolist()  # as it stood there, not in milliseconds


@pytest.mark.parametrize("name", ["dropped.xlsx", "dropped", "dropped.tsv", "dropped.parquet.gz", "dropped.gz"])
def test_a_name_of_no_format_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("cleaning began")

    monkeypatch.setattr("crossrec.domain.clean_interactions", never)
    with pytest.raises(CrossrecError, match=f"dropped: found .*{name}.*; expected a name that ends in .parquet"):
        Domain.from_frames(ROWS, ITEMS).clean(dropped=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = tmp_path / "dropped.csv", "row,step,reason\n1,k-core,old\n"
    path.write_text(old)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("crossrec.clean.write_sorted", broken)
    with pytest.raises(OSError, match="disk full"):
        Domain.from_frames(ROWS, ITEMS).clean(k_core=0, dropped=path)
    assert path.read_text() == old and [file.name for file in tmp_path.iterdir()] == ["dropped.csv"]


CONVERT: dict[str, Callable] = {
    "polars, lazy": ENGINES["polars, lazy"],
    "duckdb": ENGINES["duckdb"],
    "pandas": ENGINES["pandas"],
}


@pytest.mark.parametrize("engine", CONVERT)
def test_cleaning_leaves_nothing_in_the_temporary_folder(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clean_temp(tmp_path / "temp", monkeypatch):
        domain = Domain.from_frames(CONVERT[engine](ROWS), ITEMS)
        clean = domain.clean(k_core=0, min_history=0, dropped=tmp_path / "dropped.csv", out=tmp_path / "out")
        assert len(clean) == 6
        del domain, clean


def test_arrow_tables_pass_through_as_they_are() -> None:
    table = pa.Table.from_pandas(ROWS)
    assert numbered(table, "log", SPACE).collect().to_native().drop([ROW]).equals(table)


@pytest.mark.parametrize("engine", ["pandas", "polars, lazy", "duckdb", "pyarrow"])
def test_unknown_ids_that_are_nearly_known_are_told(engine: str) -> None:
    log = pd.DataFrame({"user_id": ["u"] * 4, "item_id": ["Tea ", "TEA", "tea", "gin"], "position": [1, 2, 3, 4]})
    things = pd.DataFrame({"item_id": ["tea", "milk"], "title": ["Green tea", "Oat milk"]})
    clean = Domain.from_frames(ENGINES[engine](log), things).clean(0, min_history=0)
    told = clean.account[clean.account["step"] == "similar ids"]
    assert len(told) == 1 and told.iloc[0][["rows_in", "dropped"]].tolist() == [2, 0]
    assert "such as 'TEA' for 'tea'" in told.iloc[0]["reason"]
    assert clean.account.set_index("step").loc["unknown item", "dropped"] == 3
