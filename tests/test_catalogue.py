"""Chapter 01b: what items say, as plain text, whatever shape it came in and from whichever engine."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.catalogue import TEXT, catalogue, catalogue_in, column_text, has_text, text_columns
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.read import numbered
from tests.tables import ENGINES, ITEMS, SPACE


def read(table: object) -> pd.DataFrame:
    return catalogue(numbered(table, "items", SPACE), "items.csv")


def test_text_columns_are_found_by_looking() -> None:
    items = pd.DataFrame(
        {
            "item_id": ["1", "2"],
            "price": [1.5, 2.0],
            "year as text": ["1999", None],
            "tags": [["a", "b"], None],
            "written": ["['x', 'y']", "[]"],
            "details": [None, {"Size": "L"}],
            "nothing": [None, None],
            "title": [None, "1917"],
        }
    )
    assert text_columns(items) == ["title", "tags", "written", "details"]
    assert has_text(items).tolist() == [True, True]
    assert has_text(items[["item_id", "title", "price"]]).tolist() == [False, True]


NESTED = {
    "Soap": "Soap",
    None: "",
    "": "",
    "[Live at 3]": "[Live at 3]",
    "[1, 2]": "[1, 2]",
    "[]": "",
    "{}": "",
    "['Bath', 'Gifts']": "Bath, Gifts",
    '["Bath", null, ""]': "Bath",
    '{"Brand": "Acme", "Sizes": ["S", "M"], "None": null}': "Brand: Acme, Sizes: S, M",
    "{'it': \"is Python's\"}": "it: is Python's",
    '[["a", "b"], ["c"]]': "a, b, c",
    "[broken": "[broken",
    "['open": "['open",
    "[" * 5_000 + "]" * 5_000: "[" * 5_000 + "]" * 5_000,
    "中文 🙂 שלום": "中文 🙂 שלום",
    "__import__('os')": "__import__('os')",
}


@pytest.mark.parametrize("text", NESTED, ids=lambda text: str(text)[:20])
def test_written_lists_become_words_and_titles_stay(text: str | None) -> None:
    for dtype in (object, TEXT):
        found = column_text(pd.Series([text, "beside"], dtype=dtype))
        assert found.tolist() == [NESTED[text], "beside"] and found.dtype == TEXT


def test_real_lists_and_dictionaries() -> None:
    shapes = [
        ["a", None, "b"],
        ("c",),
        np.array(["d", "e"], dtype=object),
        {"x": 1, "y": None, "z": ["f", 2.5]},
        [],
        {},
        float("nan"),
        7,
    ]
    assert column_text(pd.Series(shapes, dtype=object)).tolist() == [
        "a, b",
        "c",
        "d, e",
        "x: 1, z: f, 2.5",
        "",
        "",
        "",
        "7",
    ]


trees = st.recursive(
    st.none() | st.text("ab c'\",:", max_size=5) | st.integers(-9, 9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("kl", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text("kl", min_size=1, max_size=2), trees, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_written_out_or_not_a_dictionary_says_the_same(value: dict) -> None:
    found = column_text(pd.Series([value, json.dumps(value), repr(value)], dtype=object)).tolist()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_stay_in_their_order(engine: str) -> None:
    items = ITEMS.assign(price=[1, 2, 3, 4], tags=[["a"], [], ["b", "c"], None])
    items.loc[4] = ["", "no id", 5, None]
    found = read(ENGINES[engine](items))
    assert found["item_id"].astype(object).where(found["item_id"].notna(), None).tolist() == [
        "3",
        "2",
        "1",
        "null",
        None,
    ]
    assert found["item_id"].dtype == TEXT and list(found.columns) == list(items.columns)
    assert column_text(found["tags"]).tolist() == ["a", "", "b, c", "", ""] and found["price"].tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_ids_of_items_are_read_as_those_of_interactions() -> None:
    assert read(pd.DataFrame({"item_id": [12, 7], "title": ["a", "b"]}))["item_id"].tolist() == ["12", "7"]
    with pytest.raises(CrossrecError, match=r"items\.csv, column item_id: found 12\.0 \(Float64\) in row 1"):
        read(pd.DataFrame({"item_id": [12.0, None], "title": ["a", "b"]}))


BAD = {
    "no id": (ITEMS.drop(columns="item_id"), "found columns title; expected a column item_id"),
    "no rows": (ITEMS.iloc[:0], "found no rows"),
    "no text": (ITEMS[["item_id"]].assign(price=3), "found no text in columns item_id, price"),
    "blanks": (ITEMS.assign(title=" \t"), "found no text in columns item_id, title"),
    "numbers written out": (ITEMS.assign(title=None, year="1999"), "found no text in columns item_id, title, year"),
    "a field of 10 MB": (
        ITEMS.assign(title=["a", "b", "x" * 10_000_000, "d"]),
        "column title: found 10,000,000 characters in row 3",
    ),
}


@pytest.mark.parametrize("engine", ["pandas", "polars, lazy", "duckdb"])
@pytest.mark.parametrize("case", BAD)
def test_bad_catalogues_get_one_clear_line(case: str, engine: str) -> None:
    table, match = BAD[case]
    with pytest.raises(CrossrecError, match=rf"items\.csv.*: {match}|items\.csv, {match}") as error:
        read(ENGINES[engine](table))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_catalogue_inside_the_log_holds_every_text_of_an_item(engine: str) -> None:
    log = pd.DataFrame(
        {
            "user_id": ["a", "a", "b", "b", "c"],
            "item_id": ["2", "1", None, "2", "3"],
            "timestamp": [1_700_000_000] * 5,
            "title": ["two", "one", "nobody", "another two", None],
            "brand": ["B", None, "C", "D", "E"],
        }
    )
    found = catalogue_in(numbered(ENGINES[engine](log), "log", SPACE), "log")
    assert found["item_id"].tolist() == ["2", "1", "2", "3"] and list(found.columns) == ["item_id", "title", "brand"]
    assert column_text(found["title"]).tolist() == ["two", "one", "another two", ""]
    assert column_text(found["brand"]).tolist() == ["B", "", "D", "E"]
    with pytest.raises(CrossrecError, match="log: found interactions alone, without a word about the items"):
        catalogue_in(numbered(ENGINES[engine](log.drop(columns=["title", "brand"])), "log", SPACE), "log")


@pytest.mark.parametrize("engine", ["pandas", "polars, lazy", "duckdb"])
def test_rows_that_disagree_about_an_item_are_counted_as_conflicts(engine: str) -> None:
    told = ["ax", "ay", "ax", "bq", "bq", "cr"]
    log = pd.DataFrame({"user_id": list("uvwuvw"), "item_id": [t[0] for t in told], "title": [t[1] for t in told]})
    log["position"] = range(6)
    clean = Domain.from_frames(ENGINES[engine](log)).clean(0, min_history=0)
    account = clean.account.set_index("step")
    assert account.loc["conflict", "dropped"] == 1 and account.loc["same item", "dropped"] == 0
    assert clean.items["title"].tolist() == ["x", "q", "r"]  # the first of each


@pytest.mark.parametrize("engine", ["pandas", "polars, lazy", "duckdb"])
def test_columns_about_users_do_not_become_texts_of_items(engine: str) -> None:
    users, items = ["ann", "bob", "cyd"], ["tea", "milk"]
    rows = [(u, i, n, i.upper(), f"{u} Smith") for n, u in enumerate(users) for i in items]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "position", "title", "buyer"])
    with pytest.warns(UserWarning, match="buyer differ between rows of the same item"):
        domain = Domain.from_frames(ENGINES[engine](log))
    assert "buyer" not in domain.items and sorted(domain.items["title"]) == ["MILK", "TEA"]
