"""Chapter 04b: planted leaks are found, each by its own kind, and clean pairs stay without a word."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from sklearn.feature_extraction.text import TfidfVectorizer

from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.leaks import KINDS, check_pair, later_dates, named_users, plain, reads_like_review, same_items
from crossrec.split import cold_users, leave_one_out, split_domains

FIRST = int(pd.Timestamp("2023-01-01").value // 10**6)
DAY = 86_400_000
NOUNS = "lamp chair kettle basket mirror candle pillow ladder hammer bucket blanket teapot vase rug clock shelf".split()
WOODS = "oak pine elm ash beech cedar maple walnut".split()


def shop(name: str, seed: int, users: int = 30, items: int = 60, time: str = "timestamp") -> Domain:
    """A clean shop: users user-0 and so on, 12 interactions each over 360 days, a title of its own for each item."""
    draw = np.random.default_rng(seed)
    maker = {"north": "Bergström", "south": "Okafor"}[name]
    nouns = [NOUNS[(i // 8 + 5 * seed) % 16] for i in range(items)]
    titles = [f"{WOODS[i % 8]} {nouns[i]} by {maker}, no {i // 8}{'abcdefgh'[i % 8]}" for i in range(items)]
    table = pd.DataFrame({"item_id": [f"{name}-{i}" for i in range(items)], "title": titles})
    rows = [
        (f"user {'abcdefghijklmnopqrstuvwxyzåäöß'[u]}ina", f"{name}-{i}", when)
        for u in range(users)
        for i, when in zip(draw.permutation(items)[:12], np.sort(draw.integers(0, 360, 12)), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", time])
    if time == "timestamp":
        frame[time] = FIRST + frame[time] * DAY
    return Domain(name, frame, table)


@cache
def source() -> Domain:
    return shop("north", 1)


@cache
def target() -> Domain:
    return shop("south", 2)


def with_items(domain: Domain, **columns: list[str]) -> Domain:
    return Domain(domain.name, domain.interactions, domain.items.assign(**columns))


def only(report, kind: str, severity: str):
    assert report.table["kind"].tolist() == [kind] and report.table["severity"].tolist() == [severity]
    return report.findings[0]


@pytest.mark.parametrize("kind", ["leave_one_out", "global_time"])
@pytest.mark.parametrize("time", ["timestamp", "position"])
def test_clean_shops_pass(kind: str, time: str) -> None:
    one, two = shop("north", 1, time=time), shop("south", 2, time=time)
    if kind == "global_time" and time == "position":
        return
    report = check_pair(one, two, split_domains(one, two, kind))
    if kind == "leave_one_out" and time == "timestamp":
        only(report, "later than the question", "warned")
    else:
        assert report.findings == [] and report.table.columns.tolist() == [
            "kind", "severity", "where", "count", "examples", "do"
        ]  # fmt: skip
    report.guard()


def test_a_source_from_the_future_is_refused() -> None:
    split = split_domains(source(), target())[1]
    report = check_pair(source(), target(), (leave_one_out(source()), split))
    late = leave_one_out(source()).train.times >= split.valid_cut
    first = report.findings[0]
    assert {f.kind for f in report.findings} == {"later than the question"} and first.severity == "refused"
    assert first.where == "training of the source" and first.count == late.sum() > 0
    with pytest.raises(CrossrecError, match="training of the source: found later than the question"):
        report.guard()
    report.guard(allow=["later than the question"])
    with pytest.raises(CrossrecError, match="kind 'time'"):
        report.guard(allow=["time"])


def test_the_warning_of_a_split_by_order_counts_tests() -> None:
    report = check_pair(source(), target(), split_domains(source(), target(), "leave_one_out"))
    end = leave_one_out(source()).train.times.max()
    times = target().sequences.times[target().sequences.offsets[1:] - 1]
    assert only(report, "later than the question", "warned").count == (times < end).sum()


REVIEWS = ["I bought this for my daughter", "Five stars, would buy again", "Too small. I returned it.", "It is blue"]


@pytest.mark.parametrize(
    ("column", "texts", "severity"),
    [
        ("reviewText", ["blue", "red"], "refused"),
        ("customer_reviews", ["blue", "red"], "refused"),
        ("summary", REVIEWS, "refused"),
        ("about", REVIEWS, "refused"),
        ("about", [*["a blue thing"] * 9, REVIEWS[0]], "warned"),
        ("comments", ["blue", "red"], "warned"),
        ("starRating", ["four of five"], "warned"),
        ("summary", ["A sturdy lamp", "Two chairs"], None),
        ("preview", ["blue", "red"], None),
        ("about", ["We love wood. Our family has carved it for years.", "Works with any bulb", "My First Lamp"], None),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_review_columns(column: str, texts: list[str], severity: str | None, side: int) -> None:
    pair = [source(), target()]
    pair[side] = with_items(pair[side], **{column: np.resize(texts, 60)})
    report = check_pair(*pair)
    if severity is None:
        assert report.findings == []
    else:
        finding = only(report, "review as item text", severity)
        assert finding.where == f"{pair[side].name}, column {column}" and f"column {column}" in finding.do
        assert 0 < finding.count <= 60 and finding.examples


def test_reviews_of_any_language_are_found_where_they_are_handed_over() -> None:
    rows = target().interactions
    said = rows.assign(texto=[f"lo compré en el año {k} y me gusta mucho" for k in range(len(rows))])
    quoted = said.groupby("item_id")["texto"].first().reindex(target().item_ids).to_numpy()
    dirty = with_items(target(), about=["Madera. " + text.upper() + "!" for text in quoted])
    assert check_pair(source(), dirty).findings == []  # nobody showed what users wrote
    finding = only(check_pair(source(), dirty, written=said), "review as item text", "refused")
    met_twice = rows["item_id"].value_counts() > 1  # what one user alone wrote cannot be told from an attribute
    assert finding.count == met_twice.sum() >= 55 and "texto" in finding.do
    # the same words for every user are an attribute of the item, and innocent
    same = dict(zip(dirty.item_ids, quoted, strict=True))
    label = rows[["user_id", "item_id"]].assign(texto=rows["item_id"].map(same))
    assert check_pair(source(), dirty, written=label).findings == []


def test_the_voice_of_reviews() -> None:
    yes = "I've just bought two|i would not recommend|Great gift!|My husband has it|works as described|4 stars"
    no = "I|My First Dollhouse|Star Wars|In this course we will learn|Great Gatsby|Recommended age 3|"
    assert reads_like_review(pd.Series(yes.split("|"))).all()
    assert not reads_like_review(pd.Series(no.split("|"))).any()


def test_chance_by_hand() -> None:
    rows = [("12", "a", 1), ("12", "b", 2), ("7", "a", 1), ("7", "c", 2), ("mary smith", "c", 3)]
    items = pd.DataFrame({"item_id": list("abc"), "title": ["x"] * 3})
    domain = Domain("d", pd.DataFrame(rows, columns=["user_id", "item_id", "position"]), items)
    texts = pd.Series(["12 oz", "by Mary  SMITH, 12/7", "smith mary 12th"])
    found = named_users(domain, texts, domain.interactions).sort_values(["item", "words"]).reset_index(drop=True)
    assert found["words"].tolist() == ["12", "12", "7", "mary smith"] and found["item"].tolist() == [0, 1, 1, 1]
    assert found["chance"].tolist() == pytest.approx([2 * 2 / 5, 2 * 1 / 5, 2 * 1 / 5, 1 / 5])
    assert found["met"].tolist() == [True, True, False, False]


def test_users_named_in_what_they_met_are_refused_and_elsewhere_not() -> None:
    by_item = target().interactions.groupby("item_id")["user_id"]
    met = by_item.first().reindex(target().item_ids).to_numpy()
    draw = np.random.default_rng(0)
    titles = target().items["title"]
    finding = only(check_pair(source(), with_items(target(), title=titles + ", liked by " + met)), KINDS[2], "refused")
    assert finding.count >= 59 and all("user " in example for example in finding.examples)
    random = titles + ", liked by " + draw.permutation(met)
    pairs = named_users(target(), random, target().interactions)
    assert poisson.sf(pairs["met"].sum() - 1, pairs["chance"].sum()) > 1e-3  # the planted names are innocent indeed
    assert check_pair(source(), with_items(target(), title=random)).findings == []


def test_names_from_another_column() -> None:
    people = {user: f"Ann B. {chr(65 + k)}ovak" for k, user in enumerate(target().users)}
    said = target().interactions[["user_id", "item_id"]].assign(
        reviewerName=lambda f: f["user_id"].map(people), colour=lambda f: f["user_id"].str[-4:]
    )
    met = said.groupby("item_id")["reviewerName"].first().reindex(target().item_ids).to_numpy()
    dirty = with_items(target(), title=target().items["title"] + " for " + met)
    assert check_pair(source(), dirty).findings == []
    assert only(check_pair(source(), dirty, written=said), KINDS[2], "refused").count >= 59


def test_an_id_that_nobody_writes_by_chance() -> None:
    def renamed(domain: Domain) -> Domain:
        codes = {user: f"A{k:02d}XY9ZQ7{k}" for k, user in enumerate(source().users)}
        rows = domain.interactions.assign(user_id=domain.interactions["user_id"].map(codes))
        return Domain(domain.name, rows, domain.items)

    one, two = renamed(source()), renamed(target())
    assert check_pair(one, two).findings == []
    user = two.users[3]
    met = two.interactions.loc[two.interactions["user_id"] == user, "item_id"]
    titles = two.items["title"].to_numpy(object)
    inside = two.items["item_id"].isin(met).to_numpy()
    for chosen, severity in ((np.flatnonzero(inside)[:8], "refused"), (np.flatnonzero(~inside)[:8], "warned")):
        planted = titles.copy()
        planted[chosen] = planted[chosen] + " " + user
        assert only(check_pair(one, with_items(two, title=planted)), KINDS[2], severity).count == 8


def test_dates_by_hand() -> None:
    texts = ["May 17, 2024", "17th of May 2024", "17 May 2024", "2024-05-17", "2024/5/17", "2024.06", "Sept. 2024",
             "2024", "2025", "2099-01-01", "May 2023", "2023-11-30", "ISO 9001", "12024", "2024-13-40",
             "maybe 2024-01", ""]  # fmt: skip
    cut, end = (pd.Timestamp(day).value // 10**6 for day in ("2023-12-01", "2024-12-31"))
    found = later_dates(pd.Series(texts), cut, end)
    assert found.to_dict() == {
        0: "2024-05-17", 1: "2024-05-01", 2: "2024-05-17", 3: "2024-05-17", 4: "2024-05-17", 5: "2024-06-01",
        6: "2024-09-01", 7: "2024-01-01", 9: "2099-01-01", 15: "2024-01-01",
    }  # fmt: skip
    assert later_dates(pd.Series(["no year"]), cut, end).empty


def test_a_text_from_after_the_cut_is_a_warning_if_training_met_the_item() -> None:
    split = split_domains(source(), target())
    known = np.unique(split[1].train.items)
    titles = target().items["title"].to_numpy(object).copy()
    titles[known[:3]] += ", winner of March 2024"
    finding = only(check_pair(source(), with_items(target(), title=titles)), "future date", "warned")
    assert finding.count == 3 and "2024-03-01" in finding.examples[0]
    by_order = split_domains(source(), with_items(target(), title=titles), "leave_one_out")
    assert "future date" not in set(check_pair(source(), with_items(target(), title=titles), by_order).table["kind"])
    late = target().interactions[:2].assign(item_id="new", timestamp=FIRST + 359 * DAY)
    rows = pd.concat([target().interactions, late], ignore_index=True)
    new = pd.DataFrame({"item_id": ["new"], "title": ["calendar of March 2024, unheard of"]})
    items = pd.concat([target().items, new], ignore_index=True)
    assert check_pair(source(), Domain("south", rows, items)).findings == []


def planted(copies: int, met: bool, change: Callable[[str], str] = str) -> tuple[Domain, Domain]:
    """Test items of the target under other ids in the source, bought early by those whom the test asks, or not."""
    split = split_domains(source(), target())[1]
    users, items = target().users[split.test.users], target().item_ids[split.test.targets]
    chosen = pd.DataFrame({"user_id": users, "item_id": items}).drop_duplicates("item_id").head(copies)
    titles = target().items.set_index("item_id")["title"]
    copied = [change(titles[item]) for item in chosen["item_id"]]
    twins = pd.DataFrame({"item_id": "twin " + chosen["item_id"], "title": copied})
    buyers = chosen["user_id"] if met else ["somebody else"] * len(chosen)
    bought = pd.DataFrame({"user_id": buyers, "item_id": "twin " + chosen["item_id"], "timestamp": FIRST})
    rows = pd.concat([source().interactions, bought], ignore_index=True)
    return Domain("north", rows, pd.concat([source().items, twins], ignore_index=True)), target()


@pytest.mark.parametrize(
    "change", [str, str.upper, lambda t: t.replace(" ", " - ") + "!", lambda t: t.replace("Okafor", "Okaffor")]
)
def test_the_same_item_under_another_id(change: Callable[[str], str]) -> None:
    report = check_pair(*planted(5, True, change), similar=0.75)
    finding = only(report, "same item twice", "warned")
    assert finding.count == len(report.duplicates) == len(report.leaks) == 5
    assert (report.leaks["source_item"] == "twin " + report.leaks["target_item"]).all()
    one, two = planted(5, True, change)
    for row in report.leaks.itertuples():  # they did meet it there, and the test does ask for it
        assert ((one.interactions["user_id"] == row.user_id) & (one.interactions["item_id"] == row.source_item)).any()
        split = split_domains(one, two)[1]
        asked = dict(zip(two.users[split.test.users], two.item_ids[split.test.targets], strict=True))
        assert asked[row.user_id] == row.target_item


def test_duplicates_that_no_shared_user_met_are_only_noted() -> None:
    report = check_pair(*planted(5, False))
    assert only(report, "same item twice", "noted").count == 5 and report.leaks.empty
    report.guard()


def test_a_met_twin_counts_only_if_the_source_may_tell() -> None:
    one, two = planted(5, True)
    late = one.interactions.assign(
        timestamp=lambda f: f["timestamp"].where(~f["item_id"].str.startswith("twin"), FIRST + 400 * DAY)
    )
    report = check_pair(Domain("north", late, one.items), two)
    assert only(report, "same item twice", "noted").count == 5 and report.leaks.empty


def test_few_touched_questions_are_a_warning() -> None:
    one, two = (shop(name, seed, users=30, items=60) for name, seed in (("north", 1), ("south", 2)))
    crowd = pd.concat([two.interactions.assign(user_id=two.interactions["user_id"] + f" {k}x") for k in range(8)])
    crowded = Domain("south", pd.concat([two.interactions, crowd], ignore_index=True), two.items)
    split = split_domains(one, crowded)[1]
    assert len(split.test) > 100
    user, item = crowded.users[split.test.users[0]], crowded.item_ids[split.test.targets[0]]
    title = crowded.items.set_index("item_id").loc[item, "title"]
    rows = pd.concat([one.interactions, pd.DataFrame({"user_id": [user], "item_id": ["twin"], "timestamp": [FIRST]})])
    items = pd.concat([one.items, pd.DataFrame({"item_id": ["twin"], "title": [title]})])
    report = check_pair(Domain("north", rows, items), crowded)
    assert only(report, "same item twice", "warned").count == 1
    report.guard()


def test_cold_users_who_met_the_answer_in_the_source() -> None:
    one, two = planted(60, True)
    splits = cold_users(one, two, split_domains(one, two), share=0.5)
    report = check_pair(one, two, splits)
    cold = set(two.users[splits[1].cold.users])
    assert set(report.leaks["user_id"]) & cold
    questions = report.leaks.drop_duplicates(["user_id", "target_item"])
    assert only(report, "same item twice", "warned").count == len(questions)


def test_a_copy_of_the_target_is_no_source() -> None:
    one, two = source(), target()
    rows = two.interactions
    renamed = rows.assign(user_id="z" + rows["user_id"], item_id="c" + rows["item_id"])
    titles = two.items.assign(item_id="c" + two.items["item_id"])
    both = Domain("north", pd.concat([one.interactions, renamed]), pd.concat([one.items, titles]))
    report = check_pair(both, two, (leave_one_out(both), leave_one_out(two)))
    assert {finding.kind: finding.severity for finding in report.findings}["copied people"] == "refused"
    finding = next(finding for finding in report.findings if finding.kind == "copied people")
    assert finding.count == len(two.users) and finding.examples[0].endswith("is that of z" + two.users[0])
    with pytest.raises(CrossrecError, match="copied people: 30 times.*a source must not hold its target"):
        check_pair(two, two, (leave_one_out(two), leave_one_out(two))).guard(allow=["later than the question"])


def test_one_shared_history_among_many_is_a_warning() -> None:
    two = shop("south", 2, users=30, items=60)
    crowd = pd.concat([two.interactions.assign(user_id=two.interactions["user_id"] + f" {k}x") for k in range(4)])
    rows = crowd.assign(item_id=np.random.default_rng(0).permutation(crowd["item_id"]))
    crowded = Domain("south", rows, two.items).clean()
    one_user = rows[rows["user_id"] == rows["user_id"].iloc[0]].assign(user_id="me")
    titles = two.items[two.items["item_id"].isin(one_user["item_id"])]
    both = Domain("north", pd.concat([source().interactions, one_user]), pd.concat([source().items, titles]))
    found = check_pair(both, crowded, (leave_one_out(both), leave_one_out(crowded))).findings
    assert [(f.severity, f.count) for f in found if f.kind == "copied people"] == [("warned", 1)]


@pytest.mark.parametrize("name", ["{:02x}:1b:44:11:3a:b7:c9", "a_b_c_d_e_f_{}", "!!{}"])
def test_user_ids_of_many_words_or_none(name: str) -> None:
    two = target()
    ids = {user: name.format(number) for number, user in enumerate(two.users)}
    odd = Domain("south", two.interactions.assign(user_id=two.interactions["user_id"].map(ids)), two.items)
    assert not check_pair(source(), odd).findings and not check_pair(odd, source()).findings


def test_what_makes_two_names_the_same() -> None:
    def pairs(one: list[str], other: list[str], **settings: float) -> set[tuple[int, int]]:
        found = same_items(plain(one), plain(other), **settings)
        return set(zip(found["source"].tolist(), found["target"].tolist(), strict=True))

    assert pairs(["Face cream, 8 oz"], ["FACE CREAM (8 oz)"]) == {(0, 0)}
    assert pairs(["Face cream, 8 oz"], ["Face cream, 12 oz"], similar=0.3) == set()
    assert pairs(["Gloom"], ["gloom"]) == set()  # one word names too much
    assert pairs(["two words"] * 6, ["two words"]) == set()  # so does a name that six items bear
    assert pairs(["绿茶"], ["绿茶"]) == {(0, 0)} and pairs(["!"], ["?"]) == set()
    assert pairs(["ｆａｃｅ　cream"], ["face cream"]) == {(0, 0)}  # wide letters


words = st.lists(st.sampled_from([*NOUNS[:6], "8", "12"]), min_size=1, max_size=4).map(" ".join)


names = st.lists(words, min_size=1, max_size=12)


@given(names, names, st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_blocks_lose_no_pair_that_all_comparisons_find(one: list[str], other: list[str], similar: float) -> None:
    source, target = plain(one), plain(other)
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3)).fit([*source, *target])
    cosine = (grams.transform(source) @ grams.transform(target).T).toarray()
    expected = set()
    for i, a in enumerate(source):
        for j, b in enumerate(target):
            telling = min(len(set(a.split())), len(set(b.split()))) >= 2
            telling &= (source == a).sum() <= 5 and (target == b).sum() <= 5
            numbers = sorted(w for w in a.split() if w.isdigit()) == sorted(w for w in b.split() if w.isdigit())
            shared = set(a.split()) & set(b.split())
            if telling and numbers and shared and (a == b or cosine[i, j] >= similar - 1e-6):
                expected.add((i, j))
    found = same_items(source, target, similar)
    assert set(zip(found["source"].tolist(), found["target"].tolist(), strict=True)) == expected
    assert found["similarity"].is_monotonic_decreasing


def test_real_pairs_raise_no_false_alarm(real_domain: Callable) -> None:
    names = ("amazon_beauty", "amazon_toys", "mars_courses")
    beauty, toys, mars = (Domain.load(real_domain(name)).clean() for name in names)
    for pair in ((beauty, toys), (toys, beauty), (mars, beauty), (toys, mars)):
        assert check_pair(*pair).findings == [], [domain.name for domain in pair]


@pytest.mark.parametrize("department", ["nutrition", "pastry", "drug-gm"])
def test_the_year_of_shopping_raises_no_false_alarm(department: str) -> None:
    grocery, other = (Domain.load(f"completejourney/{name}").clean() for name in ("grocery", department))
    assert check_pair(grocery, other).findings == []


NO_REVIEWS = [("review_count", ["1,123 reviews"]), ("reviews", ["none"]), ("class", ["three stars", "hotel", "inn"])]


@pytest.mark.parametrize(("name", "texts"), NO_REVIEWS)
def test_words_about_reviews_are_not_reviews(name: str, texts: list[str]) -> None:
    items = with_items(target(), **{name: np.resize(texts, target().n_items)})
    check_pair(source(), items).guard()
