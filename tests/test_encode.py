"""Encoders: the cache, the order of texts, short floats, padding, unknown names, and soft whitening."""

import os
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


@pytest.mark.parametrize("change", ["text", "weights", "precision"])
def test_what_changes_a_vector_changes_the_file(
    small: Path, own_cache: Path, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "has_bf16", lambda: False)
    Encoder(str(small)).encode(item_words())
    model, texts = small, item_words()
    if change == "text":
        texts[3] = "oat oat oat"
    elif change == "weights":
        model = language_model(tmp_path / "other", seed=1)
    else:
        monkeypatch.setattr(encode, "has_bf16", lambda: True)
    Encoder(str(model)).encode(texts)
    assert len(list(own_cache.rglob("*.npy"))) == 2


def broken_files() -> dict[str, object]:
    wrong = np.zeros((24, 32), np.float32)
    return {"few": wrong[:5], "not finite": wrong + np.nan, "double": wrong.astype(np.float64), "flat": wrong.ravel()}


@pytest.mark.parametrize("damage", ["cut off", "empty", "text", *broken_files()])
def test_a_damaged_cache_is_made_again(small: Path, own_cache: Path, damage: str) -> None:
    good = Encoder(str(small)).encode(item_words())
    (file,) = own_cache.rglob("*.npy")
    if damage in broken_files():
        np.save(file, broken_files()[damage])
    else:
        file.write_bytes({"cut off": file.read_bytes()[:700], "empty": b"", "text": b"no array at all"}[damage])
    np.testing.assert_array_equal(Encoder(str(small)).encode(item_words()), good)
    np.testing.assert_array_equal(np.load(file).shape, (24, 32))


def test_a_pickle_in_the_cache_is_not_opened(small: Path, own_cache: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(own_cache / "exploded"),)

    good = Encoder(str(small)).encode(item_words())
    (file,) = own_cache.rglob("*.npy")
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(Encoder(str(small)).encode(item_words()), good)
    assert not (own_cache / "exploded").exists()


def test_order_and_repetition_do_not_matter(small: Path, own_cache: Path) -> None:
    plain = Encoder(str(small)).encode(item_words())
    (file,) = own_cache.rglob("*.npy")
    file.unlink()
    order = np.random.default_rng(0).integers(0, 24, 200)
    order[:24] = np.arange(24)
    np.testing.assert_array_equal(Encoder(str(small)).encode([item_words()[i] for i in order]), plain[order])


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
    assert cosines(*vectors).min() >= 0.999


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
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


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
