"""A tiny sample of each public format, made up in the layout of its publisher, and what a domain shall say of it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

LEAK = "LEAK"  # stands in every field that was made by users after they met an item


def write(path: Path, text: str | list[dict], encoding: str = "utf-8") -> Path:
    """A file of lines, packed where its name ends in .gz; dictionaries are written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = text if isinstance(text, str) else "".join(json.dumps(line) + "\n" for line in text)
    path.write_bytes(gzip.compress(lines.encode(encoding)) if path.suffix == ".gz" else lines.encode(encoding))
    return path


def python_lines(rows: list[dict]) -> str:
    return "".join(f"{row!r}\n" for row in rows)


def amazon_2014(folder: Path) -> None:
    reviews = [
        {
            "reviewerID": "A1",
            "asin": "0001",
            "reviewText": LEAK,
            "overall": 5.0,
            "summary": LEAK,
            "unixReviewTime": 1252800000,
        },
        {
            "reviewerID": "A2",
            "asin": "B2",
            "reviewText": LEAK,
            "overall": 2.0,
            "helpful": [1, 2],
            "unixReviewTime": 1252886400,
        },
    ]
    products = [
        {"asin": "0001", "title": 'Kid\'s "soap" é', "categories": [["Beauty", "Soap"]], "salesRank": {LEAK: 7}},
        {"asin": "B2", "description": "A brush.", "brand": "Suds", "related": {"also_bought": [LEAK]}, "price": 9.5},
        {"asin": "B3", "title": "Nobody met it"},
    ]
    write(folder / "reviews_Beauty_5.json.gz", reviews)
    write(folder / "meta_Beauty.json.gz", python_lines(products))


def amazon_2018(folder: Path) -> None:
    reviews = [
        {
            "reviewerID": "A1",
            "asin": "B1",
            "overall": 4.0,
            "unixReviewTime": 1500000000,
            "reviewText": LEAK,
            "vote": LEAK,
            "style": {"Size:": LEAK},
        },
        {"reviewerID": "A1", "asin": "B2", "overall": 1.0, "unixReviewTime": 1500000001},
    ]
    products = [
        {
            "asin": "B1",
            "title": "Oil &amp; more",
            "category": ["Beauty", "Hair"],
            "description": ["One.", "Two <b>2</b>."],
            "feature": ["Soft"],
            "brand": "Suds",
            "rank": LEAK,
            "also_buy": [LEAK],
            "also_view": [LEAK],
            "details": {"Rank:": LEAK},
        },
        {"asin": "B2", "title": "var aPageStart = (new Date()).getTime();", "category": ["Beauty"]},
    ]
    write(folder / "All_Beauty_5.json.gz", reviews)
    write(folder / "meta_All_Beauty.json.gz", products)


PRODUCTS_2023 = [
    {
        "parent_asin": "P1",
        "title": "A card",
        "store": "Shop",
        "categories": ["Gift Cards", "Birthday"],
        "features": ["Never expires", "No fees"],
        "description": [],
        "main_category": "Gift Cards",
        "average_rating": 4.9,
        "rating_number": 12,
        "bought_together": LEAK,
        "details": {"Material": "Plastic", "Best Sellers Rank": {LEAK: 9}, "Customer Reviews": LEAK},
    },
    {
        "parent_asin": "P2",
        "title": None,
        "store": None,
        "categories": [],
        "features": [],
        "description": ["Red."],
        "details": {},
    },
]


def amazon_2023(folder: Path) -> None:
    reviews = [
        {
            "rating": 5.0,
            "title": LEAK,
            "text": LEAK,
            "asin": "blue",
            "parent_asin": "P1",
            "user_id": "AG1",
            "timestamp": 1588687728923,
            "verified_purchase": True,
        },
        {
            "rating": 1.0,
            "title": LEAK,
            "text": LEAK,
            "asin": "red",
            "parent_asin": "P2",
            "user_id": "AG1",
            "timestamp": 1588687728924,
            "images": [],
        },
    ]
    write(folder / "Gift_Cards.jsonl.gz", reviews)
    write(folder / "meta_Gift_Cards.jsonl.gz", PRODUCTS_2023)


def amazon_hub(folder: Path) -> None:
    ratings = "user_id,parent_asin,rating,timestamp\nAG1,P1,5.0,1588687728923\nAG1,P2,1.0,1588687728924\n"
    write(folder / "benchmark/0core/rating_only/Gift_Cards.csv", ratings)
    products = pd.DataFrame([one | {"details": json.dumps(one["details"])} for one in PRODUCTS_2023])
    place = folder / "raw_meta_Gift_Cards"
    place.mkdir()
    products[:1].to_parquet(place / "full-00000-of-00002.parquet")
    products[1:].to_parquet(place / "full-00001-of-00002.parquet")


def amazon_parquet(folder: Path) -> None:
    amazon_hub(folder)
    (folder / "benchmark/0core/rating_only/Gift_Cards.csv").unlink()
    reviews = {"user_id": ["AG1"] * 2, "asin": ["blue", "red"], "parent_asin": ["P1", "P2"], "text": [LEAK] * 2}
    times = {"rating": [5.0, 1.0], "timestamp": [1588687728923, 1588687728924]}
    (folder / "raw_review_Gift_Cards").mkdir()
    pd.DataFrame(reviews | times).to_parquet(folder / "raw_review_Gift_Cards" / "full-00000-of-00001.parquet")


def movielens_100k(folder: Path) -> None:
    write(folder / "u.data", "196\t242\t3\t881250949\n196\t302\t5\t891717742\n")
    first = f"242|Nénette et Boni (1996)|01-Jan-1996||http://us.imdb.com/{LEAK}|0|0|0|0|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0\n"
    second = '302|"L.A." |01-Jan-1997||http://x|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|1\n'
    write(folder / "u.item", first + second, "latin-1")


def movielens_1m(folder: Path) -> None:
    write(folder / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    write(folder / "movies.dat", '1193::Misérables, Les (1995)::Drama|War\n661::One: "Two"::Children\'s\n', "latin-1")


def movielens_25m(folder: Path) -> None:
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n2,306,3.5,1147868817\n")
    movies = 'movieId,title,genres\n296,Pulp Fiction (1994),Comedy|Crime\n306,"Red, Three (1994)",(no genres listed)\n'
    write(folder / "movies.csv", movies)
    write(
        folder / "tags.csv", f'userId,movieId,tag,timestamp\n3,296,"cult, {LEAK}",1439472355\n4,296,1990s,1439472256\n'
    )


def mind(folder: Path) -> None:
    train = (
        "1\tU1\t11/11/2019 9:05:58 AM\tN3 N1\tN4-0 N2-1\n"
        "2\tU1\t11/11/2019 8:00:00 AM\tN3 N1\tN4-1 N1-0\n"
        "3\tU2\t11/12/2019 6:11:30 PM\t\tN1-1 N2-1 N3-0\n"
    )
    write(folder / "MINDsmall_train" / "behaviors.tsv", train)
    write(folder / "MINDsmall_dev" / "behaviors.tsv", "1\tU1\t11/15/2019 12:00:01 AM\tN3 N1\tN5-1 N2-0\n")
    tail = f"\thttps://{LEAK}\t[]\t[]\n"
    news = f'N1\tsports\tsoccer\t"Golden" goal\tIt was late.{tail}N2\tnews\tworld\tRain\t{tail}'
    more = f'N3\ttv\tgames\tGuest on "W\t{tail}'
    write(folder / "MINDsmall_train" / "news.tsv", news + more + f"N4\tfood\twine\tA good year\t{tail}")
    write(
        folder / "MINDsmall_dev" / "news.tsv",
        f'N1\tsports\tsoccer\t"Golden" goal\tIt was late.{tail}N5\tx\ty\tNew\t{tail}',
    )


def goodreads(folder: Path) -> None:
    shelved = {"user_id": "80d5", "review_id": "f", "review_text_incomplete": LEAK, "read_at": "", "date_updated": ""}
    rows = [
        shelved | {"book_id": "402128", "is_read": True, "rating": 4, "date_added": "Fri Apr 19 08:15:15 -0700 2013"},
        shelved | {"book_id": "7", "is_read": False, "rating": 0, "date_added": "Sat Apr 20 09:00:00 +0000 2013"},
    ]
    books = [
        {
            "book_id": "402128",
            "title": "Cats",
            "title_without_series": "Cats",
            "description": "Verses.",
            "publisher": "W",
            "popular_shelves": [{"count": "5", "name": LEAK}],
            "similar_books": [LEAK],
            "ratings_count": "15716",
        },
        {"book_id": "7", "title": "Night", "description": "", "publisher": "", "popular_shelves": []},
        {"book_id": "8", "title": "Nobody", "description": "", "publisher": ""},
    ]
    write(folder / "goodreads_interactions_poetry.json.gz", rows)
    write(folder / "goodreads_books_poetry.json.gz", books)


def mars(folder: Path) -> None:
    write(folder / "implicit_ratings_en.csv", "item_id,user_id,created_at\n510,4287,2016-11-02 20:59:23\n")
    write(
        folder / "explicit_ratings_en.csv",
        "user_id,item_id,watch_percentage,created_at,rating\n9,511,29,2021-07-12 08:35:10,3\n",
    )
    head = "item_id,language,name,nb_views,description,created_at,Difficulty,Job,Software,Theme,duration,type\n"
    first = (
        '510,en,What is it?,1114.0,"A library,\nonline.",2016,Beginner,[],'
        "['OneDrive'],\"['Share', 'Produce']\",42.0,tutorial\n"
    )
    write(folder / "items_en.csv", head + first + "511,en,Delete,547.0,Click.,2016,,[],[],[],1.0,tutorial\n")
    write(folder / "implicit_ratings_fr.csv", "item_id,user_id,created_at\n1,1,2016-11-02 20:59:23\n")
    write(folder / "items_fr.csv", head + "1,fr,Qu'est-ce ?,1,Une bibliothèque.,2016,,[],[],[],1.0,tutorial\n")


def microlens(folder: Path) -> None:
    write(
        folder / "MicroLens-50k_pairs.csv", "user,item,timestamp\n36121,9580,1583378629552\n36121,16845,1583378729552\n"
    )
    write(folder / "MicroLens-50k_titles.csv", 'item,title\n9580,"Tea, ""green"""\n16845,西班牙 #颜值\n')
    write(folder / "MicroLens-50k_likes_and_views.txt", f"9580\t1\t{LEAK}\n")


def steam(folder: Path) -> None:
    reviews = [
        {"username": "Chaos", "hours": 9.9, "product_id": "620", "date": "2017-12-17", "text": LEAK, "page": 1},
        {"username": "Chaos", "product_id": "10", "date": "2017-12-17", "text": "it's \"" + LEAK, "user_id": "7656"},
        {"username": "日本", "product_id": "10", "date": "2018-01-01", "text": LEAK, "found_funny": 2},
    ]
    games = [
        {
            "app_name": "Portal 2",
            "genres": ["Action", "Adventure"],
            "specs": ["Co-op"],
            "id": "620",
            "sentiment": LEAK,
            "metascore": 95,
            "tags": [LEAK],
            "developer": "Valve",
            "publisher": "Valve",
            "reviews_url": LEAK,
        },
        {"title": "Counter-Strike", "app_name": "CS", "id": "10", "early_access": False},
        {"title": "No number"},
    ]
    write(
        folder / "steam_reviews.json.gz", "".join(f"{row!r}\n".replace("'username'", "u'username'") for row in reviews)
    )
    write(folder / "steam_games.json.gz", python_lines(games))


def recbole(folder: Path) -> None:
    write(
        folder / "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
    )
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    write(folder / "ml-100k.item", head + '242\t"Kolya\t1996\tComedy Drama\n302\tnan\t1997\tCrime\n')


def recbole_steam(folder: Path) -> None:
    head = "user_id:token\tplay_hours:float\tproduct_id:token\ttimestamp:float\tfound_funny:token\n"
    write(folder / "steam.inter", head + "7\t2.5\t620\t1513468800.0\tnan\n")
    words = "sentiment:token\ttags:token_seq\tgenres:token_seq"
    head = f"app_name:token\tdeveloper:token\tid:token\tmetascore:float\t{words}\n"
    write(folder / "steam.item", head + f"Portal 2\tValve\t620\t95\t{LEAK}\t{LEAK}\tAction Adventure\n")


SAMPLES: dict[str, tuple[str, Callable[[Path], None], list[tuple], dict[str, dict[str, str]]]] = {
    "amazon_2014": (
        "amazon",
        amazon_2014,
        [("A1", "0001", 1252800000000, 5.0), ("A2", "B2", 1252886400000, 2.0)],
        {
            "0001": {"title": 'Kid\'s "soap" é', "categories": "Beauty, Soap"},
            "B2": {"description": "A brush.", "brand": "Suds"},
        },
    ),
    "amazon_2018": (
        "amazon",
        amazon_2018,
        [("A1", "B1", 1500000000000, 4.0), ("A1", "B2", 1500000001000, 1.0)],
        {
            "B1": {
                "title": "Oil &amp; more",
                "brand": "Suds",
                "categories": "Beauty, Hair",
                "features": "Soft",
                "description": "One., Two <b>2</b>.",
            },
            "B2": {"categories": "Beauty"},
        },
    ),
    **{
        name: (
            "amazon",
            make,
            [("AG1", "P1", 1588687728923, 5.0), ("AG1", "P2", 1588687728924, 1.0)],
            {
                "P1": {
                    "title": "A card",
                    "brand": "Shop",
                    "categories": "Gift Cards, Birthday",
                    "features": "Never expires, No fees",
                    "details": "Material: Plastic",
                },
                "P2": {"description": "Red."},
            },
        )
        for name, make in (("amazon_2023", amazon_2023), ("amazon_hub", amazon_hub), ("amazon_parquet", amazon_parquet))
    },
    "movielens_100k": (
        "movielens",
        movielens_100k,
        [("196", "242", 881250949000, 3.0), ("196", "302", 891717742000, 5.0)],
        {
            "242": {"title": "Nénette et Boni (1996)", "genres": "Comedy, Romance"},
            "302": {"title": '"L.A." ', "genres": "Action, Western"},
        },
    ),
    "movielens_1m": (
        "movielens",
        movielens_1m,
        [("1", "1193", 978300760000, 5.0), ("1", "661", 978302109000, 3.0)],
        {
            "1193": {"title": "Misérables, Les (1995)", "genres": "Drama, War"},
            "661": {"title": 'One: "Two"', "genres": "Children's"},
        },
    ),
    "movielens_25m": (
        "movielens",
        movielens_25m,
        [("1", "296", 1147880044000, 5.0), ("2", "306", 1147868817000, 3.5)],
        {"296": {"title": "Pulp Fiction (1994)", "genres": "Comedy, Crime"}, "306": {"title": "Red, Three (1994)"}},
    ),
    "mind": (
        "mind",
        mind,
        [
            ("U1", "N1", 1),
            ("U1", "N2", 3),
            ("U1", "N3", 0),
            ("U1", "N4", 2),
            ("U1", "N5", 4),
            ("U2", "N1", 0),
            ("U2", "N2", 1),
        ],
        {
            "N1": {"title": '"Golden" goal', "category": "sports", "subcategory": "soccer", "abstract": "It was late."},
            "N2": {"title": "Rain", "category": "news", "subcategory": "world"},
            "N3": {"title": 'Guest on "W', "category": "tv", "subcategory": "games"},
            "N4": {"title": "A good year", "category": "food", "subcategory": "wine"},
            "N5": {"title": "New", "category": "x", "subcategory": "y"},
        },
    ),
    "goodreads": (
        "goodreads",
        goodreads,
        [("80d5", "402128", 1366384515000, 4.0), ("80d5", "7", 1366448400000, None)],
        {"402128": {"title": "Cats", "description": "Verses.", "publisher": "W"}, "7": {"title": "Night"}},
    ),
    "mars": (
        "mars",
        mars,
        [("4287", "510", 1478120363000)],
        {
            "510": {
                "title": "What is it?",
                "description": "A library,\nonline.",
                "theme": "Share, Produce",
                "software": "OneDrive",
                "difficulty": "Beginner",
            },
            "511": {"title": "Delete", "description": "Click."},
        },
    ),
    "microlens": (
        "microlens",
        microlens,
        [("36121", "16845", 1583378729552), ("36121", "9580", 1583378629552)],
        {"9580": {"title": 'Tea, "green"'}, "16845": {"title": "西班牙 #颜值"}},
    ),
    "steam": (
        "steam",
        steam,
        [("Chaos", "10", 1513468800000), ("Chaos", "620", 1513468800000), ("日本", "10", 1514764800000)],
        {
            "620": {
                "title": "Portal 2",
                "genres": "Action, Adventure",
                "specs": "Co-op",
                "developer": "Valve",
                "publisher": "Valve",
            },
            "10": {"title": "Counter-Strike"},
        },
    ),
    "recbole": (
        "recbole",
        recbole,
        [("196", "242", 881250949000, 3.0)],
        {"242": {"title": '"Kolya', "class": "Comedy Drama"}, "302": {"class": "Crime"}},
    ),
    "recbole_steam": (
        "recbole",
        recbole_steam,
        [("7", "620", 1513468800000)],
        {"620": {"title": "Portal 2", "developer": "Valve", "genres": "Action Adventure"}},
    ),
}
