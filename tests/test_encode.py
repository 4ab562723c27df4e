"""Encoders: the cache, the order of texts, short floats, padding, unknown names, and soft whitening."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec import encode
from crossrec.core import CrossrecError
from crossrec.encode import Encoder, find_model, soft_whiten
from tests.toy import item_words, language_model

TITLES = """whole milk|almond drink, unsweetened|rolled oats, 500 g|shampoo for dry hair|hair conditioner|dog biscuits
a detective story set in Berlin in the winter of 1932, paperback|tea|wireless headphones with noise cancelling
cocktail shaker, stainless steel|baby wipes, 64 pieces|garden hose""".replace("\n", "|").split("|")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test begins with an empty cache."""
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("models") / "bert")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def cannot_load(self: Encoder) -> None:
    raise AssertionError("the model was loaded although the cache has its vectors")


def test_vectors_have_length_one_and_one_row_a_text(small: Path) -> None:
    vectors = Encoder(str(small)).encode(item_words())
    assert vectors.shape == (24, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_second_run_does_not_load_the_model(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Encoder(str(small)).encode(item_words())
    monkeypatch.setattr(Encoder, "load", cannot_load)
    np.testing.assert_array_equal(Encoder(str(small)).encode(item_words()), first)
    np.testing.assert_array_equal(Encoder(str(small)).encode(item_words()[::-1]), first[::-1])


@pytest.mark.parametrize("change", ["weights", "precision", "pooling", "prompt", "length", "room"])
def test_what_changes_a_vector_changes_the_place(
    small: Path, own_cache: Path, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "has_bf16", lambda: False)
    Encoder(str(small)).encode(item_words())
    model, chosen = small, {}
    if change == "weights":
        model = language_model(tmp_path / "other", seed=1)
    elif change == "precision":
        monkeypatch.setattr(encode, "has_bf16", lambda: True)
    else:
        named = {"pooling": "cls", "prompt": "oat ", "length": 3, "room": "float16"}
        chosen = {{"length": "max_length", "room": "keep"}.get(change, change): named[change]}
    Encoder(str(model), **chosen).encode(item_words())
    assert len(list(own_cache.rglob("index.npz"))) == 2


def test_a_new_text_costs_one_text(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, forward = [], encode._forward
    monkeypatch.setattr(encode, "_forward", lambda *given: asked.append(given[1]) or forward(*given))
    first = Encoder(str(small)).encode(item_words())
    longer = Encoder(str(small)).encode([*item_words(), "oat oat oat"])
    assert [len(texts) for texts in asked] == [24, 1] and asked[1] == ["oat oat oat"]
    np.testing.assert_array_equal(longer[:24], first)


def test_a_vector_does_not_depend_on_its_neighbours(small: Path, own_cache: Path, tmp_path: Path, monkeypatch) -> None:
    texts = [" ".join(item_words()[: 1 + number % 7]) + f" {word}" for number, word in enumerate(item_words())]
    together = Encoder(str(small)).encode(texts)
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "another"))
    alone = np.concatenate([Encoder(str(small)).encode([text]) for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-6)  # a product of another size may round differently


def test_order_and_repetition_do_not_matter(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Encoder(str(small)).encode(item_words())
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "another"))
    order = np.random.default_rng(0).integers(0, 24, 200)
    np.testing.assert_array_equal(Encoder(str(small)).encode([item_words()[i] for i in order]), plain[order])


def test_half_the_room_and_a_file_of_vectors(small: Path, tmp_path: Path, own_cache: Path) -> None:
    texts = [*item_words(), *item_words()[:3]]
    exact = Encoder(str(small)).encode(texts)
    half = Encoder(str(small), keep="float16")
    assert half.encode(texts).dtype == np.float32
    np.testing.assert_allclose(half.encode(texts), exact, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(half.encode(texts), axis=1), 1, atol=1e-6)
    mapped = half.encode(texts, out=tmp_path / "half.npy")
    assert isinstance(mapped, np.memmap) and mapped.dtype == np.float16 and not mapped.flags.writeable
    np.testing.assert_allclose(mapped, exact, atol=1e-3)
    np.testing.assert_array_equal(np.load(tmp_path / "half.npy"), mapped)
    np.testing.assert_array_equal(Encoder(str(small)).encode(texts, out=tmp_path / "exact.npy"), exact)
    with pytest.raises(CrossrecError, match="dtype 'int8'"):
        Encoder(str(small), keep="int8")


def test_half_a_character_is_read_as_a_question_mark(small: Path) -> None:
    found = Encoder(str(small)).encode(["oat \ud83d", "oat ?"])  # badly cut data hold such halves
    np.testing.assert_array_equal(*found[:, None])


@pytest.mark.parametrize("texts", [["oat", None], ["oat", float("nan")], [b"oat"], [["oat"]], None, b"oat", "oat", []])
def test_what_is_no_list_of_texts_is_refused(small: Path, texts: object) -> None:
    with pytest.raises(CrossrecError, match="Encoder.encode: found .*; expected a (list of )?text"):
        Encoder(str(small)).encode(texts)


@pytest.mark.parametrize("chosen", [{"tokens": 0}, {"tokens": 1.5}, {"max_length": "7"}, {"prompt": 3}])
def test_settings_that_cannot_be_meant_are_refused(small: Path, chosen: dict) -> None:
    with pytest.raises(CrossrecError, match=next(iter(chosen))):
        Encoder(str(small), **chosen)


def test_a_file_of_vectors_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="no way to write"):
        Encoder(str(small)).encode(item_words(), out=tmp_path)  # a folder stands there


def test_vectors_that_are_not_numbers_are_refused(small: Path, own_cache: Path, monkeypatch) -> None:
    broken = lambda model, texts, budget: iter([(np.arange(len(texts)), np.full((len(texts), 4), np.nan, np.float32))])  # noqa: E731
    monkeypatch.setattr(encode, "_forward", broken)
    with pytest.raises(CrossrecError, match="not numbers"):
        Encoder(str(small)).encode(item_words())
    assert not list(own_cache.rglob("index.npz"))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("budget", [1, 16_384])
def test_padding_does_not_reach_the_vector(tmp_path: Path, kind: str, budget: int, monkeypatch) -> None:
    monkeypatch.setattr(encode, "has_bf16", lambda: False)
    texts = ["oat", "oat milk", "oat milk tea bread soap", "leek kale dill corn jam ham fish cheese egg nut", ""]
    encoder = Encoder(str(language_model(tmp_path / kind, kind)), budget)
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_short_floats_keep_the_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = []
    for short in (True, False):
        monkeypatch.setattr(encode, "has_bf16", lambda short=short: short)
        vectors.append(Encoder("minilm").encode(TITLES))
    assert cosines(*vectors).min() >= 0.9999


def test_loading_is_quiet_and_leaves_the_bars_on(small: Path, capfd: pytest.CaptureFixture) -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()
    Encoder(str(small)).encode(item_words())
    shown = capfd.readouterr()
    assert "Loading" not in shown.err + shown.out and "deprecated" not in shown.err + shown.out
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize("name", ["no such encoder", "nobody/none", "/no/such/folder"])
def test_an_unknown_encoder_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(name: str, **settings: object) -> str:
        huggingface_hub.utils.validate_repo_id(name)
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CrossrecError, match=f"encoder '{name}'.*minilm") as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossrecError, match="do not make a model"):
        Encoder(str(tmp_path / "empty")).encode(["milk"])


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = language_model(tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CrossrecError, match="safetensors"):
        Encoder(str(folder)).encode(["milk"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=80), st.integers(1, 500))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = encode._batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len({lengths[row] for row in rows}) == 1
        assert len(rows) == 1 or len(rows) * lengths[rows[0]] <= max(budget, len(rows) if lengths[rows[0]] == 0 else 0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 60), d=st.integers(1, 12), strength=st.floats(0.05, 10))
def test_whitening_does_not_see_shift_scale_order_or_rotation(seed: int, n: int, d: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)) * rng.uniform(0.2, 5, d)
    white = soft_whiten(vectors, strength)
    assert white.shape == (n, d) and white.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-5)
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    np.testing.assert_allclose(soft_whiten(3 * vectors + 7, strength), white, atol=1e-4)
    np.testing.assert_allclose(soft_whiten(vectors @ turn, strength), white @ turn, atol=1e-4)
    order = rng.permutation(n)
    np.testing.assert_allclose(soft_whiten(vectors[order], strength), white[order], atol=1e-4)


def test_whitening_in_full_evens_out_and_gently_only_centres() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(4000, 5)) * [9, 3, 1, 0.5, 0.1] + 2).astype(np.float32)
    evenness = [np.linalg.cond(np.cov(soft_whiten(vectors, strength).T)) for strength in (0.0, 0.3, 1e6)]
    assert evenness[0] < 1.2 < evenness[1] < evenness[2]
    centred = vectors - vectors.mean(0)
    np.testing.assert_allclose(cosines(soft_whiten(vectors, 1e6), centred), 1, atol=1e-4)


def test_whitening_leaves_its_input_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    before = vectors.copy()
    vectors.flags.writeable = False
    soft_whiten(vectors)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4)), np.zeros(4)])
def test_whitening_refuses_what_is_no_catalogue(vectors: np.ndarray) -> None:
    with pytest.raises(CrossrecError, match="whitening"):
        soft_whiten(vectors)


def test_whitening_of_items_all_alike_says_nothing() -> None:
    np.testing.assert_array_equal(soft_whiten(np.ones((4, 3), np.float32)), np.zeros((4, 3)))
