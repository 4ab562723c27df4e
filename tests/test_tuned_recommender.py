"""A recommender whose language model was tuned: learned from training rows only, saved, moved and loaded."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import crossrec
from crossrec import CrossrecError, Domain, Recommender
from crossrec.encode import Encoder
from crossrec.finetune import FineTuneSettings
from crossrec.model import ModelSettings
from crossrec.split import leave_one_out
from crossrec.text import item_texts
from crossrec.train import TrainSettings
from tests.shops import write_shop
from tests.toy import language_model

TUNE = FineTuneSettings(mode="full", steps=6, epochs=2, batch=16, rate=3e-3, history=2, keep=0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("tuned")
        patch.setenv("CROSSREC_CACHE", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def source(place: Path) -> Domain:
    return Domain.load(write_shop(place / "r", "r")).clean()


def made(place: Path, patch: pytest.MonkeyPatch, tune: FineTuneSettings | None = TUNE) -> Recommender:
    """Fitted on the source; whatever was tuned counts as better than what was not."""
    values = iter(range(100))
    judge = lambda *given, **more: lambda vectors: float(next(values))  # noqa: E731
    patch.setattr(sys.modules["crossrec.finetune"], "text_judge", judge)
    brief = TrainSettings(most_steps=20, epochs=2)
    return Recommender(str(place / "encoder"), ModelSettings(width=16), brief, tune=tune)


@pytest.fixture(scope="module")
def tuned(place: Path, source: Domain) -> Recommender:
    language_model(place / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        return made(place, patch).fit(source)


def test_the_vectors_are_those_of_the_tuned_model(tuned: Recommender, place: Path) -> None:
    texts = item_texts(tuned.items)
    start = Encoder(str(place / "encoder")).encode(texts)
    np.testing.assert_allclose(tuned.whitening(tuned.encoder.encode(texts)), tuned.vectors, atol=1e-6)
    assert not np.allclose(tuned.encoder.encode(texts), start, atol=1e-3)
    assert tuned.encoder_name == str(place / "encoder"), "learning anew begins where the first time began"


def test_only_training_rows_are_learned_from(tuned: Recommender, place: Path, source: Domain, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("crossrec.recommend.tuned_encoder",
                        lambda start, texts, split, *rest: seen.append(split) or tuned.encoder)
    made(place, monkeypatch).fit(source)
    assert np.array_equal(seen[0].train.items, leave_one_out(source).train.items)


def test_saved_moved_and_loaded_it_reads_new_texts_as_before(tuned: Recommender, place: Path, tmp_path: Path) -> None:
    asked = ["something never seen", tuned.item_ids[2]]
    want = tuned.recommend(asked, 5)
    tuned.save(tmp_path / "saved")
    moved = Path(shutil.copytree(tmp_path / "saved", tmp_path / "moved"))
    shutil.rmtree(tmp_path / "saved")
    again = Recommender.load(moved)
    assert again.recommend(asked, 5).equals(want)
    again.save(tmp_path / "twice")
    shutil.rmtree(moved)
    assert Recommender.load(tmp_path / "twice").recommend(asked, 5).equals(want)


def test_a_damaged_language_model_is_refused(tuned: Recommender, tmp_path: Path) -> None:
    file = tuned.save(tmp_path / "saved") / "encoder" / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"!")
    with pytest.raises(CrossrecError, match="encoder/model.safetensors: found another content"):
        Recommender.load(tmp_path / "saved")
    file.unlink()
    with pytest.raises(CrossrecError, match="no such file"):
        Recommender.load(tmp_path / "saved")


def test_without_tuning_no_language_model_is_saved(place: Path, source: Domain, tmp_path: Path, monkeypatch) -> None:
    folder = made(place, monkeypatch, None).fit(source).save(tmp_path / "plain")
    assert not (folder / "encoder").exists() and json.loads((folder / "config.json").read_text())["tuned"] == {}


def test_settings_of_tuning_are_kept(tuned: Recommender, tmp_path: Path) -> None:
    again = Recommender.load(tuned.save(tmp_path / "saved"))
    assert again.tune == tuned.tune == TUNE and again.encoder_name == tuned.encoder_name


def test_only_transfer_reads_with_the_tuned_model(tuned: Recommender, place: Path, source: Domain, monkeypatch) -> None:
    folder = write_shop(place / "p", "p", seed=2)
    items = pd.read_csv(folder / "items.csv")  # worded otherwise, or the guard finds the source's things here
    words = items["title"].str.split(" ", n=1, expand=True)
    items["title"] = words[0] + " " + np.roll(words[1].to_numpy(object), 5)
    items.to_csv(folder / "items.csv", index=False)
    target = Domain.load(folder).clean()
    names = ["text", "text_mean", "blend", "item_knn", "text_scratch", "transfer"]
    ranks = [{(part.method, part.target_users): part.ranks for part in
              crossrec.transfer(recommender, target, [0, 16], [0], methods=names).results}
             for recommender in (tuned, made(place, monkeypatch, None).fit(source))]
    assert len(ranks[0]) == 2 * len(names) and ranks[0].keys() == ranks[1].keys()
    differ = {name for name, users in ranks[0] if not np.array_equal(ranks[0][name, users], ranks[1][name, users])}
    assert differ == {"transfer"}


def test_finetune_is_a_public_name() -> None:
    assert callable(crossrec.finetune) and crossrec.finetune.__module__ == "crossrec.finetune"
