"""Several language models at once, and models that are read up to a layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crossrec import Domain, Recommender, transfer
from crossrec.core import CrossrecError
from crossrec.encode import Encoder, Whitening
from crossrec.model import ModelSettings
from crossrec.together import Together, find_encoder
from crossrec.train import TrainSettings
from crossrec.tuning import FineTuneSettings
from tests.shops import write_shop
from tests.toy import item_words, language_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("together")
        patch.setenv("CROSSREC_CACHE", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def names(place: Path) -> tuple[str, str]:
    return str(language_model(place / "one")), str(language_model(place / "other", "llama", seed=1))


def test_the_inner_product_is_the_mean_of_the_cosines(names: tuple[str, str]) -> None:
    texts, both = item_words(), find_encoder("+".join(names))
    assert isinstance(both, Together) and not isinstance(find_encoder(names[0]), Together)
    vectors = both.encode(texts)
    one, other = (Encoder(name).encode(texts) for name in names)
    assert vectors.dtype == np.float32 and vectors.shape == (len(texts), one.shape[1] + other.shape[1])
    np.testing.assert_allclose(vectors @ vectors.T, (one @ one.T + other @ other.T) / 2, atol=1e-5)


def test_each_model_is_whitened_alone(names: tuple[str, str]) -> None:
    texts, both = item_words(), find_encoder("+".join(names))
    white, whitening = both.white(texts), both.whitening(both.encode(texts))
    apart = [Whitening.of(part) for part in np.split(both.encode(texts), 2, axis=1)]
    side_by_side = np.concatenate(
        [(v - w.mean) @ w.matrix for v, w in zip(np.split(both.encode(texts), 2, 1), apart, strict=True)], 1
    )
    side_by_side /= np.linalg.norm(side_by_side, axis=1, keepdims=True)
    np.testing.assert_allclose(white, side_by_side, atol=1e-5)
    np.testing.assert_allclose(
        whitening(both.encode(["oat milk"])), whitening(both.encode(["oat milk", "tea"]))[:1], atol=1e-5
    )
    assert not whitening.matrix[: both.widths[0], both.widths[0] :].any()


def test_one_name_alone_is_what_it_was(names: tuple[str, str]) -> None:
    encoder, texts = find_encoder(names[0]), item_words()
    assert encoder.fingerprint == Encoder(names[0]).fingerprint
    np.testing.assert_array_equal(encoder.white(texts), Whitening.of(encoder.encode(texts))(encoder.encode(texts)))


def test_order_and_models_make_the_fingerprint(names: tuple[str, str]) -> None:
    one, other = names
    prints = {find_encoder(name).fingerprint for name in (one, other, f"{one}+{other}", f"{other}+{one}")}
    assert len(prints) == 4


@pytest.mark.parametrize("name", ["{0}+", "+", "{0}+{0}", "{0}+no-such-folder/here"])
def test_names_that_cannot_be_meant_are_refused(name: str, names: tuple[str, str], monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CrossrecError, match="two names or more|no such folder"):
        find_encoder(name.format(*names))


def test_a_recommender_with_two_models_is_saved_and_answers_words(place: Path, names: tuple[str, str]) -> None:
    rich, poor = (Domain.load(write_shop(place / letter, letter, seed=seed)) for seed, letter in enumerate("rp"))
    both = "+".join(names)
    recommender = Recommender(both, ModelSettings(width=16), TrainSettings(most_steps=20, epochs=2)).fit(rich)
    study = transfer(recommender, poor, shots=[0, "all"], seeds=[0], methods=["text", "transfer"])
    assert study.protocol["encoder"] == both and study.best.vectors.shape[1] == 64
    again = Recommender.load(study.best.save(place / "saved"))
    for history in (["p1", "p3"], ["oat milk", "p2"], ["bread"]):
        first, second = study.best.recommend(history, 5), again.recommend(history, 5)
        assert first.item_id.tolist() == second.item_id.tolist()
        np.testing.assert_allclose(first.score, second.score, atol=1e-5)


def test_several_models_are_not_tuned(names: tuple[str, str]) -> None:
    with pytest.raises(CrossrecError, match="a single language model"):
        Recommender("+".join(names), tune=FineTuneSettings())
    with pytest.raises(CrossrecError, match="a single language model"):
        find_encoder("+".join(names)).load()


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_model_may_be_read_up_to_a_layer(tmp_path: Path, kind: str, monkeypatch) -> None:
    """The lowest layers of a model of three are what a model of one layer would be that has their weights."""
    import torch

    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))
    folder = str(language_model(tmp_path / kind, kind))
    whole, low = Encoder(folder, dtype="fp32", pooling="mean"), Encoder(folder, dtype="fp32", pooling="mean", layers=1)
    assert whole.fingerprint != low.fingerprint
    assert whole.fingerprint != Encoder(folder, dtype="fp32", pooling="mean", layers=3).fingerprint
    np.testing.assert_allclose(
        whole.encode(["tea bread"]),
        Encoder(folder, dtype="fp32", pooling="mean", layers=3).encode(["tea bread"]),
        atol=1e-6,
    )
    model = whole.load()
    inputs = model.tokenizer(["tea bread"], return_tensors="pt")
    with torch.inference_mode():
        states = model.transformers_model(**inputs, output_hidden_states=True).hidden_states[1]
        last = {"llama": "norm", "gpt2": "ln_f"}.get(kind)  # a decoder's last norm stands above its highest layer
        states = getattr(model.transformers_model, last)(states) if last else states
    wanted = states.mean(1).numpy()
    np.testing.assert_allclose(low.encode(["tea bread"]), wanted / np.linalg.norm(wanted), atol=1e-5)
    saved = low.load()
    saved.save(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_allclose(
        Encoder(str(tmp_path / "saved"), dtype="fp32").encode(["tea bread"]), low.encode(["tea bread"]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("layers", "words"), [(0, "1 or more"), (True, "1 or more"), ("2", "1 or more"), (4, "1 to 3")]
)
def test_layers_that_are_not_there_are_refused(names: tuple[str, str], layers: object, words: str) -> None:
    with pytest.raises(CrossrecError, match=words):
        Encoder(names[0], layers=layers).load()
