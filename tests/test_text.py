"""Chapter 04: texts are clean, keep their place and their language, and say so when there are none."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.text import clean_text, describe_texts, item_texts

SHELF = pd.DataFrame(
    {
        "item_id": ["1", "2", "3", "4"],
        "price": [1.0, 2.0, 3.0, 4.0],
        "categories": [["Breakfast", "Grain"], ["Drinks"], [], None],
        "title": ["Rolled oats", "Tea!", "Dates", None],
    }
)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Oil &amp; Lotion", "Oil & Lotion"),
        ("&lt;b&gt;New&lt;/b&gt;", "New"),
        ("one<br/>two <!-- not this --> three", "one two three"),
        ("weight < 5 kg, I <3 it, Beauty > Nails", "weight < 5 kg, I <3 it, Beauty > Nails"),
        (" a\t b\u00a0\u3000c\x00d\r\n", "a b c d"),
        ("西班牙 #颜值", "西班牙 #颜值"),
        ("👩\u200d🚀 up", "👩\u200d🚀 up"),
        ("شاي أخضر\u200f", "شاي أخضر\u200f"),
        ("AT&T &nope; 7 &lt 9", "AT&T &nope; 7 < 9"),
        (None, ""),
    ],
)
def test_clean_text(dirty: str | None, clean: str) -> None:
    assert clean_text(pd.Series([dirty], dtype=object)).tolist() == [clean]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_cleaning_keeps_rows_and_letters(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    cleaned = clean_text(pd.Series(texts, dtype=object)).tolist()
    assert len(cleaned) == len(texts)
    for text, result in zip(texts, cleaned, strict=True):
        assert result == result.strip() and "\n" not in result and "  " not in result
        if not set(text) & set("&<[]"):
            assert [letter for letter in text if letter.isalnum()] == [letter for letter in result if letter.isalnum()]


def test_default_is_title_then_the_others() -> None:
    assert item_texts(SHELF) == ["Rolled oats. Breakfast, Grain", "Tea! Drinks", "Dates", ""]
    assert item_texts(SHELF, ["categories", "title"])[0] == "Breakfast, Grain. Rolled oats"


def test_template_drops_words_of_empty_fields() -> None:
    made = item_texts(SHELF, template="{title} in {categories}")
    assert made == ["Rolled oats in Breakfast, Grain", "Tea! in Drinks", "Dates", ""]
    assert item_texts(SHELF, template="Shelf: {categories}. Name: {title}.")[2] == "Name: Dates."


def test_index_of_the_frame_does_not_matter() -> None:
    assert item_texts(SHELF.set_index(pd.Index([9, 9, 1, 0]))) == item_texts(SHELF)


def test_long_texts_end_at_a_word() -> None:
    items = pd.DataFrame({"item_id": ["1", "2"], "title": ["one two three four", "one two"]})
    assert item_texts(items, max_words=2) == ["one two", "one two"]
    assert item_texts(items, max_words=None)[0] == "one two three four"
    assert len(item_texts(items.assign(title="word " * 500))[0].split()) == 128


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"columns": ["colour"]}, "no column 'colour'"),
        ({"columns": []}, "no column of text"),
        ({"template": "{title} {colour}"}, "field {colour}"),
    ],
)
def test_unknown_fields(settings_: dict, message: str) -> None:
    with pytest.raises(CrossrecError, match=message):
        item_texts(SHELF, **settings_)


def test_nothing_to_say() -> None:
    with pytest.raises(CrossrecError, match="nothing but empty text in title"):
        item_texts(SHELF.assign(title="<br>"), ["title"])


def test_describe_texts_counts() -> None:
    facts = describe_texts(["a b", "a b", "", "c d e"])
    assert facts.tolist() == [4, 1, 2, 2.0, 3]
    assert describe_texts(["", ""])["empty"] == 2
