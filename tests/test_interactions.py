"""Chapter 01a: ids of any type, times in any unit, ratings; the same on every engine."""

import datetime
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

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
from crossrec.interactions import _iso, check_interactions, number, rename, to_arrow_types
from crossrec.read import ROW, Workspace, numbered
from tests.tables import DUCKDB, ENGINES, ROWS, SPACE

PLACES = ROWS.drop(columns="timestamp").assign(position=range(6))


def checked(table: object) -> pd.DataFrame:
    """The checked rows of a frame, missing as None."""
    rows = check_interactions(numbered(table, "log", SPACE), "log").frame.sort(ROW).collect("pandas").to_native()
    return rows.astype(object).where(rows.notna(), None)


# Names


def test_mapping_replaces_a_column_of_our_name() -> None:
    table = numbered(PLACES.rename(columns={"user_id": "reviewer"}).assign(user_id="not this one"), "log", SPACE)
    found, items = rename([table, numbered(PLACES[["item_id"]], "items", SPACE)], {"user_id": "reviewer"}, "log")
    assert found.collect("pandas").to_native()["user_id"].tolist() == PLACES["user_id"].tolist()
    assert items.collect_schema().names() == [ROW, "item_id"]


def test_mapping_may_swap_two_columns() -> None:
    table = numbered(PLACES, "log", SPACE)
    (found,) = rename([table], {"user_id": "item_id", "item_id": "user_id"}, "log")
    assert found.collect("pandas").to_native()["item_id"].tolist() == PLACES["user_id"].tolist()


def test_mapping_to_a_column_that_is_not_there() -> None:
    with pytest.raises(CrossrecError, match="columns: found no column 'reviwer' in shop"):
        rename([numbered(PLACES, "log", SPACE)], {"user_id": "reviwer"}, "shop")


# Ids


U = [UUID(int=1), UUID(int=2), UUID(int=1)]
IDS: dict[str, tuple[object, list]] = {
    "text": (["007", "NA", "A1 "], ["007", "NA", "A1 "]),
    "blank": (["a", "", "  "], ["a", None, None]),
    "whole numbers": (np.array([7, -1, 2**62]), ["7", "-1", str(2**62)]),
    "small numbers": (np.array([7, 0, 255], "uint8"), ["7", "0", "255"]),
    "numbers above 2**63": (np.array([2**64 - 1, 0, 1], "uint64"), [str(2**64 - 1), "0", "1"]),
    "nullable numbers": (pd.array([1, None, 2], "Int64"), ["1", None, "2"]),
    "categories of text": (pd.Categorical(["b", "a", None]), ["b", "a", None]),
    "categories of numbers": (pd.Categorical([30, 4, None]), ["30", "4", None]),
    "Arrow text": (pd.array(["a", None, "b"], "string[pyarrow]"), ["a", None, "b"]),
    "objects, text": (pd.Series(["a", None, "b"], dtype=object), ["a", None, "b"]),
    "objects, not a number": (pd.Series(["a", float("nan"), pd.NA], dtype=object), ["a", None, None]),
    "objects, mixed": (pd.Series([1, "1", None], dtype=object), ["1", "1", None]),
    "objects, huge numbers": (pd.Series([2**70, 5, None], dtype=object), [str(2**70), "5", None]),
    "objects, UUIDs": (pd.Series(U, dtype=object), [str(u) for u in U]),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_of_any_type_become_text(case: str) -> None:
    values, expected = IDS[case]
    assert checked(PLACES.iloc[:3].assign(user_id=values))["user_id"].tolist() == expected
    assert checked(PLACES.iloc[:3].assign(item_id=values))["item_id"].tolist() == expected


ID_FRAMES: dict[str, Callable] = {
    "polars categories": lambda: pl.from_pandas(PLACES).with_columns(
        user_id=pl.Series(["b", "a", "b"] * 2, dtype=pl.Categorical)
    ),
    "polars enum": lambda: (
        pl.from_pandas(PLACES).lazy().with_columns(user_id=pl.Series(["b", "a", "b"] * 2, dtype=pl.Enum(["b", "a"])))
    ),
    "arrow dictionary": lambda: pa.table({**PLACES, "user_id": pa.array(["b", "a", "b"] * 2).dictionary_encode()}),
    "arrow views": lambda: pa.table({**PLACES, "user_id": pa.array(["b", "a", "b"] * 2, pa.string_view())}),
    "arrow large text": lambda: pa.table({**PLACES, "user_id": pa.array(["b", "a", "b"] * 2, pa.large_string())}),
    "duckdb enum": lambda: duckdb.sql(
        "SELECT CASE range % 3 WHEN 1 THEN 'a' ELSE 'b' END::ENUM('a', 'b') AS user_id, 1 AS item_id, "
        "range AS position FROM range(6)"
    ),
}


@pytest.mark.parametrize("case", ID_FRAMES)
def test_ids_in_the_types_of_other_engines(case: str) -> None:
    assert checked(ID_FRAMES[case]())["user_id"].tolist() == ["b", "a", "b"] * 2


def test_uuids_of_duckdb() -> None:
    relation = duckdb.sql(f"SELECT '{U[0]}'::UUID AS user_id, 1 AS item_id, 1 AS position")
    assert checked(relation)["user_id"].tolist() == [str(U[0])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1.0, None, 2.0], r"found 1\.0 \(Float64\) in row 1"),
        ([True, False, True], r"found True \(Boolean\) in row 1"),
        (pd.to_datetime(["2024-01-01"] * 3), r"found 2024-01-01 .*in row 1"),
        (["a", "b", "c" * 1001], "found 1,001 characters in row 3, beginning 'cccccccccccccccccccc'"),
    ],
    ids=["fractions", "truth", "dates", "long"],
)
def test_columns_that_are_no_ids(engine: str, values: object, match: str) -> None:
    for column in ("user_id", "item_id"):
        table = ENGINES[engine](PLACES.iloc[:3].assign(**{column: values}))
        with pytest.raises(CrossrecError, match=f"log, column {column}: {match}"):
            checked(table)


@pytest.mark.parametrize("wrong", [1.5, b"a", ["a"], ("a",), Decimal(1), True, datetime.date(2024, 1, 1)])
def test_objects_that_are_no_ids(wrong: object) -> None:
    values = pd.Series(["a", None, "b", "c", "d", "e"], dtype=object)
    values.iat[3] = wrong
    with pytest.raises(CrossrecError, match=rf"column user_id: found .* \({type(wrong).__name__}\) in row 4"):
        checked(PLACES.assign(user_id=values))


# Moments

NOON = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
DATES = pd.to_datetime(["2023-11-14 22:13:20", "2023-11-14 22:14:20"])
TIMES: dict[str, object] = {
    "seconds": [1_700_000_000, 1_700_000_060],
    "fractions of seconds": [1_700_000_000.0, 1_700_000_060.0],
    "milliseconds": [NOON, NOON + 60_000],
    "microseconds": [NOON * 1000, (NOON + 60_000) * 1000],
    "nanoseconds": [NOON * 10**6, (NOON + 60_000) * 10**6],
    "seconds as text": ["1700000000", " 1700000060 "],
    "seconds as a program writes them": ["1.7e9", "1.70000006E+09"],
    "decimals": pd.Series([Decimal("1700000000"), Decimal("1700000060.0")], dtype=object),
    "ISO": ["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"],
    "ISO without zone": ["2023-11-14 22:13:20", "2023-11-14T22:14:20.000"],
    "ISO in two zones": ["2023-11-14 16:43:20-05:30", "2023-11-15T00:14:20+02:00"],
    "ISO, short zones": ["2023-11-15T00:13:20+02", "2023-11-15 00:14:20 +0200"],
    "dates": DATES,
    "dates in seconds": DATES.astype("datetime64[s]"),
    "dates in nanoseconds": DATES.astype("datetime64[ns]"),
    "dates of a zone": DATES.tz_localize("UTC").tz_convert("Asia/Kolkata"),
    "datetime": pd.Series(list(DATES.to_pydatetime()), dtype=object),
    "datetime of a zone": pd.Series(
        list(DATES.tz_localize("UTC").tz_convert("Europe/Paris").to_pydatetime()), dtype=object
    ),
    "mixed objects": pd.Series([DATES[0].to_pydatetime(), "2023-11-14T22:14:20Z"], dtype=object),
    "categories": pd.Categorical(["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"]),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", TIMES)
def test_times_in_any_form(case: str, engine: str) -> None:
    table = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["1", "2"], "timestamp": TIMES[case]})
    if case == "mixed objects":  # which only pandas has
        engine = "pandas"
    assert checked(ENGINES[engine](table))["timestamp"].tolist() == [NOON, NOON + 60_000]


DAY = 1_709_164_800_000  # 2024-02-29
DAYS: dict[str, Callable] = {
    "text": lambda: pd.DataFrame({"timestamp": ["2024-02-29"]}),
    "number": lambda: pd.DataFrame({"timestamp": [20240229]}),
    "number as text": lambda: pd.DataFrame({"timestamp": ["20240229"]}),
    "date": lambda: pd.DataFrame({"timestamp": pd.Series([datetime.date(2024, 2, 29)], dtype=object)}),
    "polars": lambda: pl.DataFrame({"timestamp": [datetime.date(2024, 2, 29)]}),
    "arrow": lambda: pa.table({"timestamp": pa.array([datetime.date(2024, 2, 29)])}),
    "duckdb": lambda: duckdb.sql("SELECT DATE '2024-02-29' AS timestamp"),
    **{f"duckdb {kind}": lambda kind=kind: duckdb.sql(f"SELECT '2024-02-29'::{kind} AS timestamp")
       for kind in ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")},
    "duckdb zone": lambda: duckdb.sql("SELECT '2024-02-29 05:30:00+05:30'::TIMESTAMPTZ AS timestamp"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAYS)
def test_days_in_any_form(case: str) -> None:
    days = nw.from_native(DAYS[case]()).with_columns(user_id=nw.lit("a"), item_id=nw.lit("1"))
    assert checked(days.to_native())["timestamp"].tolist() == [DAY]


def test_a_day_that_the_calendar_does_not_have() -> None:
    found = checked(PLACES.iloc[:4].assign(timestamp=[20240229, 20230229, 20241301, 20240630]))
    assert found["timestamp"].tolist() == [DAY, None, None, 1_719_705_600_000]


moments = st.datetimes(
    datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.none() | st.just(datetime.timezone.utc)
    | st.integers(-14 * 60, 14 * 60).map(lambda m: datetime.timezone(datetime.timedelta(minutes=m))),
)  # fmt: skip


@given(
    st.lists(moments, min_size=1, max_size=30),
    st.sampled_from(["T", " "]),
    st.sampled_from(["milliseconds", "microseconds", "seconds", "minutes"]),
)
@settings(max_examples=40, deadline=None)
def test_iso_text_is_read_as_python_reads_it(times: list, separator: str, precision: str) -> None:

    text = [time.isoformat(separator, precision) for time in times]
    first = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    judge = [datetime.datetime.fromisoformat(t) for t in text]
    judge = [(t if t.tzinfo else t.replace(tzinfo=datetime.timezone.utc)) - first for t in judge]
    expected = [t // datetime.timedelta(milliseconds=1) for t in judge]
    for engine in ("polars", "pyarrow"):
        parts, moment = _iso(nw.from_native(ENGINES[engine](pd.DataFrame({"text": text}))), "text")
        assert parts.select(found=moment)["found"].to_list() == expected


texts = st.text("0123456789-:TZ+. eé", max_size=30) | st.sampled_from(
    [
        "2024-02-30",
        "2024-13-01",
        "2024-00-10",
        "2024-01-01T24:00",
        "2024-01-01T10:60",
        "2024-01-01T10:00:60",
        "+1",
        ".5",
        "1.",
        "1e999",
        "9" * 99,
    ]
    + [
        "-0",
        "1e5",
        "nan",
        "inf",
        "Infinity",
        "0x10",
        "1_000",
        "1,5",
        "٣",
        "\u00a05",
        " 7\t",
        "2024-01-01T10:00Z ",
        "2024-01-01t10:00z",
    ]
)


@given(st.lists(texts, min_size=1, max_size=20), st.booleans())
@settings(max_examples=15, deadline=None)
def test_engines_agree_on_text_that_may_be_no_time(values: list[str], as_numbers: bool) -> None:

    results = []
    for name, convert in ENGINES.items():
        table = to_arrow_types(
            numbered(convert(pd.DataFrame({"text": pd.Series(values, dtype="str")})), name, SPACE), name
        )
        table, read = (table, number(table, "text")) if as_numbers else _iso(table, "text")
        column = table.select(ROW, value=read).sort(ROW).collect("pandas").to_native()["value"]
        results.append(column.astype(object).where(column.notna(), None).tolist())
    assert all(result == results[0] for result in results)


def test_what_is_no_number_is_missing() -> None:
    found = checked(PLACES.assign(rating=["5", " 3.5", "n/a", "1e999", "NaN", None]))
    assert found["rating"].tolist() == [5.0, 3.5, None, None, None, None]
    for engine in ("polars", "duckdb", "pandas"):
        table = ENGINES["polars"](PLACES).with_columns(
            rating=pl.Series([5.0, float("nan"), float("inf"), None, -1.0, 0.0])
        )
        table = {"polars": table, "duckdb": DUCKDB.from_arrow(table.to_arrow()), "pandas": table.to_pandas()}[
            engine
        ]
        assert checked(table)["rating"].tolist() == [5.0, None, None, None, -1.0, 0.0]


def test_few_impossible_moments_stay_for_cleaning_to_count() -> None:
    found = checked(PLACES.assign(timestamp=[1_700_000_000] * 4 + [-5, 32_503_680_000]))
    assert found["timestamp"].tolist() == [NOON] * 4 + [-5000, 32_503_680_000_000]


BAD_ORDERS = {
    "negative": ([1_700_000_000, -5, -6, -7], "3 of 4 values that lie before 1970 or after 2100, such as -5 in row 2"),
    "year 3000": (
        ["2024-01-01"] + ["3000-01-01"] * 3,
        "3 of 4 values that lie before 1970 or after 2100, such as '3000-01-01' in row 2",
    ),
    "words": (
        ["soon", "later", "2024-01-01", "never"],
        "3 of 4 values that could not be read, such as 'soon' in row 1",
    ),
    "other dates": (["01/02/2024"] * 4, "4 of 4 values that could not be read, such as '01/02/2024' in row 1"),
    "two forms": (["2024-01-01", "1700000000", "1700000001", "x"], "could not be read"),
    "nothing": ([None] * 4, "4 of 4 values that could not be read"),
    "lengths": (pd.to_timedelta([1, 2, 3, 4], unit="D"), "4 of 4 values that could not be read"),
    "periods": (pd.period_range("2024-01", periods=4, freq="M"), "4 of 4 values that could not be read"),
}


@pytest.mark.parametrize("case", BAD_ORDERS)
def test_a_table_of_bad_moments_is_refused(case: str) -> None:
    values, match = BAD_ORDERS[case]
    with pytest.raises(CrossrecError, match=f"log, column timestamp: found .*{match}"):
        checked(PLACES.iloc[:4].assign(timestamp=values))


def test_positions_are_numbers_in_any_order() -> None:
    assert checked(PLACES.assign(position=["3", "-2", "1e3", "4.0", "x", None]))["position"].tolist() == [
        3,
        -2,
        1000,
        4,
        None,
        None,
    ]
    with pytest.raises(
        CrossrecError, match=r"log, column position: found 6 of 6 values that could not be read, such as 'first'"
    ):
        checked(PLACES.assign(position="first"))


# The whole table


@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_stays(engine: str) -> None:
    table = pd.DataFrame(
        {
            "user_id": ["a", None, ""],
            "item_id": ["1", " ", "2"],
            "timestamp": ["2024-02-29", "x", "2024-03-01"],
            "rating": ["1", "x", None],
        }
    )
    log = check_interactions(numbered(ENGINES[engine](table), "log", SPACE), "log")
    rows = log.frame.sort(ROW).collect("pandas").to_native()
    rows = rows.astype(object).where(rows.notna(), None)
    assert rows.to_dict("list") == {
        ROW: [1, 2, 3], "user_id": ["a", None, None], "item_id": ["1", None, "2"],
        "timestamp": [DAY, None, DAY + 86_400_000], "rating": [1.0, None, None],
    }  # fmt: skip
    raw = log.raw.sort(ROW).collect("pandas").to_native()
    assert raw["timestamp"].tolist() == ["2024-02-29", "x", "2024-03-01"] and log.order == "timestamp" and log.ratings


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_columns_and_rows(engine: str) -> None:
    for column, match in {
        "user_id": "expected a column user_id",
        "position": "expected a column timestamp or position",
    }.items():
        with pytest.raises(CrossrecError, match=f"log: found columns .*; {match}"):
            checked(ENGINES[engine](PLACES.drop(columns=column)))
    with pytest.raises(CrossrecError, match="log: found no rows"):
        checked(ENGINES[engine](PLACES.iloc[:0]))


def test_fractions_written_as_text_are_refused_too() -> None:
    rows = pd.DataFrame({"user_id": ["12.0", None, "3.0"], "item_id": ["1", "2.0", "x"], "position": [1, 2, 3]})
    with pytest.raises(CrossrecError, match=r"column user_id: found '12.0' in row 1; expected text or whole numbers"):
        check_interactions(numbered(rows, "log", Workspace()), "log")
    check_interactions(numbered(rows.assign(user_id="a"), "log", Workspace()), "log")  # x is one
