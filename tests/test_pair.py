"""Chapter 04a: what two domains share, by hand, against brute force, and within bounded memory."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.pair import closeness, nearest, vocabulary


def domain(titles: list[str], users: list[str], name: str) -> Domain:
    """Every user meets every item in order."""
    rows = [(user, str(i), i) for user in users for i in range(len(titles))]
    items = pd.DataFrame({"item_id": [str(i) for i in range(len(titles))], "title": titles})
    return Domain(name, pd.DataFrame(rows, columns=["user_id", "item_id", "position"]), items)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def test_vocabulary_counts_items_and_not_words() -> None:
    table = vocabulary(["tea", "Green tea, green tea!"], ["green green", "TEA_pot 12", "绿茶"])
    assert table.to_dict("index") == {
        "green": {"items": 1, "source": 1},
        "tea": {"items": 1, "source": 2},
        "pot": {"items": 1, "source": 0},
        "12": {"items": 1, "source": 0},
        "绿": {"items": 1, "source": 0},
        "茶": {"items": 1, "source": 0},
    }


@given(st.lists(st.text("ab ", max_size=6), min_size=1, max_size=8), st.lists(st.text("abc ", max_size=6), max_size=8))
@settings(max_examples=60, deadline=None)
def test_vocabulary_is_the_set_of_words(source: list[str], target: list[str]) -> None:
    words = {word for text in target for word in text.split()}
    if not words:
        with pytest.raises(CrossrecError, match="no words"):
            vocabulary(source, target)
        return
    table = vocabulary(source, target)
    assert set(table.index) == words and table["items"].is_monotonic_decreasing
    for word, row in table.iterrows():
        assert row["items"] == sum(word in text.split() for text in target)
        assert row["source"] == sum(word in text.split() for text in source)


@given(st.integers(1, 30), st.integers(2, 30), st.integers(0, 99), st.booleans())
@settings(max_examples=50, deadline=None)
def test_nearest_is_the_best_of_all(n: int, m: int, seed: int, sparse: bool) -> None:
    draw = np.random.default_rng(seed)
    asked, among = (unit(draw.normal(size=(k, 6)) * (draw.random((k, 6)) < 0.6)) for k in (n, m))
    every = asked @ among.T
    best, cosine = nearest(*(csr_matrix(v) if sparse else v for v in (asked, among)))
    np.testing.assert_allclose(cosine, every.max(1), atol=1e-6)
    np.testing.assert_allclose(every[np.arange(n), best], cosine, atol=1e-6)
    own = draw.permutation(m)[: min(n, m)]  # some rows of `among` look for another one
    stored = csr_matrix(among) if sparse else among
    best, cosine = nearest(stored[own], stored, own)
    others = among[own] @ among.T
    others[np.arange(len(own)), own] = -1
    assert (best != own).all()
    np.testing.assert_allclose(cosine, others.max(1), atol=1e-6)


def test_memory_grows_with_the_batch() -> None:
    draw = np.random.default_rng(0)
    asked, among = unit(draw.normal(size=(4_000, 8))), unit(draw.normal(size=(40_000, 8)))
    tracemalloc.start()
    best, _ = nearest(asked, among)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6 < 4_000 * 40_000 * 4  # bytes; the whole product would be 640 MB
    some = draw.permutation(4_000)[:50]
    assert (best[some] == (asked[some] @ among.T).argmax(1)).all()


def test_closeness_by_hand() -> None:
    one = domain(["red tea", "oat milk", "blue soap"], ["ann", "bob", "cy"], "one")
    two = domain(["red tea", "oat flakes", "iron nail"], ["bob", "dee"], "two")
    close = closeness(one, two)
    assert close.facts["users in both"] == 1 and close.facts["share of the target's users"] == 0.5
    assert close.facts["words of the target"] == 6 and close.facts["of them in the source"] == 0.5
    assert close.facts["by frequency"] == 0.5
    by_item = close.items.set_index("target_item")
    assert by_item.loc["0", "source_item"] == "0" and by_item.loc["0", "to_source"] == pytest.approx(1)
    assert by_item.loc["1", "source_item"] == "1" and 0.2 < by_item.loc["1", "to_source"] < 0.8
    assert by_item.loc["2", "to_source"] == 0 and (by_item["within"] == 0).all()
    axes = close.plot().axes
    assert [axis.get_title(loc="left") for axis in axes] == ["Users", "Words of the target", "Nearest item"]
    assert all(axis.get_ylabel() for axis in axes)


def test_closeness_takes_vectors_of_any_length() -> None:
    one, two = domain(["a b", "c d"], ["u"], "one"), domain(["e", "f", "g"], ["u"], "two")
    close = closeness(one, two, (np.array([[2.0, 0], [0, 5]]), np.array([[3.0, 0], [1, 1], [0, 0]])))
    np.testing.assert_allclose(close.items["to_source"], [1, 0.5**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(close.items["within"], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)
    with pytest.raises(CrossrecError, match="found 3 and 2 vectors; expected 2 and 3"):
        closeness(one, two, (np.eye(3), np.eye(2)))


def test_a_large_target_is_sampled_with_a_seed() -> None:
    titles = [f"thing {i} kind {i % 7}" for i in range(60)]
    one, two = domain(titles[:20], ["u"], "one"), domain(titles, ["u"], "two")
    whole = closeness(one, two).items.set_index("target_item")
    parts = [closeness(one, two, most=25, seed=seed).items.set_index("target_item") for seed in (0, 0, 1)]
    assert parts[0].equals(parts[1]) and not parts[0].index.equals(parts[2].index)
    for part in parts:
        assert len(part) == 25
        pd.testing.assert_frame_equal(part, whole.loc[part.index])


def test_a_catalogue_of_one_text_is_compared_all_the_same() -> None:
    same = domain(["the same words"] * 80, ["u"], "same")
    close = closeness(same, same)
    assert close.items["to_source"].min() == pytest.approx(1) and close.items["within"].min() == pytest.approx(1)


def test_real_beauty_and_toys(real_domain: Callable) -> None:
    beauty, toys = (Domain.load(real_domain(name)).clean() for name in ("amazon_beauty", "amazon_toys"))
    close = closeness(beauty, toys)
    assert close.facts["users in both"] == 2073 and len(close.items) == toys.n_items
    assert close.facts["median cosine to the nearest source item"] < close.facts["the same within the target"] - 0.3
    assert 0.2 < close.facts["of them in the source"] < close.facts["by frequency"] < 0.9
