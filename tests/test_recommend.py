"""The recommender as an object: what it answers, what it saves, and what it refuses to load."""

import json
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from crossrec.borrowed import source_pairs
from crossrec.cli import app
from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.model import ModelSettings
from crossrec.ranking import rank_queries
from crossrec.recommend import Recommender, cleaned, recommend_file
from crossrec.split import Queries, leave_one_out, split_domains
from crossrec.study import Study, transfer
from crossrec.train import TrainSettings
from tests.shops import write_shop
from tests.toy import language_model, walks

FILES = ["config.json", "items.parquet", "model.safetensors", "source.parquet", "vectors.safetensors"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("recommend")
        patch.setenv("CROSSREC_CACHE", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def study(place: Path) -> Study:
    """From one toy shop to another, with few steps of training."""
    rich, poor = (Domain.load(write_shop(place / letter, letter, seed=seed)) for seed, letter in enumerate("rp"))
    encoder = str(language_model(place / "encoder"))
    recommender = Recommender(encoder, ModelSettings(width=16), TrainSettings(most_steps=20, epochs=2)).fit(rich)
    return transfer(recommender, poor, shots=[0, "all"], seeds=[0], methods=["text", "transfer"])


@pytest.fixture(scope="module")
def model(study: Study) -> Recommender:
    return study.best


@pytest.fixture(scope="module")
def saved(place: Path, model: Recommender) -> Path:
    return model.save(place / "saved")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved recommender to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_loaded_scores_are_equal_to_the_last_bit(study: Study, tmp_path: Path) -> None:
    for budget, model in study.models.items():
        again = Recommender.load(model.save(tmp_path / str(budget)))
        assert np.array_equal(again.scorer.score(study.test.histories), model.scorer.score(study.test.histories))
        history = ["oat milk", model.item_ids[0], "r3"]
        pd.testing.assert_frame_equal(again.recommend(history), model.recommend(history))
        assert again.knowledge.plans == model.knowledge.plans and again.source_facts == model.source_facts


def test_a_loaded_recommender_can_be_saved_and_moved_again(saved: Path, place: Path, model: Recommender) -> None:
    again = Recommender.load(saved)
    twice = again.save(place / "twice")
    assert all((twice / name).read_bytes() == (saved / name).read_bytes() for name in FILES)
    other = Domain.load(write_shop(place / "other", "o", seed=9))
    moved = transfer(again, other, shots=[0], seeds=[0], methods=["text", "transfer"], split="leave_one_out")
    assert moved.best.name == "other" and set(moved.best.recommend(["r1"]).item_id) <= set(other.items.item_id)


def test_what_a_source_lends_is_saved_with_it(place: Path, study: Study, tmp_path: Path) -> None:
    rich, poor = (Domain.load(place / letter).clean() for letter in "rp")
    lender = Recommender(str(place / "encoder"), ModelSettings(width=16), TrainSettings(most_steps=20)).fit(rich)
    lent = source_pairs(lender.vectors, leave_one_out(rich).train)
    lender.knowledge = replace(lender.knowledge, pairs=lent)
    plain = {"shots": [0], "seeds": [0], "methods": ["text", "transfer"], "split": "leave_one_out"}
    moved = transfer(lender, poor, **plain).best
    assert moved.scorer.blend.weights["borrowed"] > 0
    again, asked = Recommender.load(moved.save(tmp_path / "moved")), study.test.histories
    assert np.array_equal(again.scorer.score(asked), moved.scorer.score(asked))
    history = ["oat milk", moved.item_ids[0], "r3"]  # a text, an item of its own and one of the source
    pd.testing.assert_frame_equal(again.recommend(history), moved.recommend(history))
    for part in ("vectors", "factors", "values"):
        assert np.array_equal(getattr(again.knowledge.pairs, part), getattr(lent, part))
    moved_again = transfer(Recommender.load(lender.save(tmp_path / "lender")), poor, **plain).best
    assert np.array_equal(moved_again.scorer.score(asked), moved.scorer.score(asked))


def test_strategies_that_read_the_source_want_it_before_anything_is_computed(
    saved: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrec.study._run", lambda *_: pytest.fail("computed"))
    poor = Domain.load(place / "p")
    with pytest.raises(CrossrecError, match=r"mmd, joint: found a loaded recommender, without .* leave them out"):
        transfer(Recommender.load(saved), poor, shots=[0], methods=["text", "joint", "mmd"], split="leave_one_out")


def test_a_split_of_something_else_is_refused(place: Path) -> None:
    rich, poor = (Domain.load(place / letter) for letter in "rp")
    new = Recommender(str(place / "encoder"), ModelSettings(width=16), TrainSettings(most_steps=20))
    for split in (leave_one_out(rich.clean()).train, split_domains(rich.clean(), poor.clean())):
        with pytest.raises(CrossrecError, match=f"split: found a {type(split).__name__}"):
            new.fit(rich, split)
    with pytest.raises(CrossrecError, match=r"split: found a split of [\d,]+ items .* Clean the source first"):
        new.fit(rich, walks(30, 80))


def test_lists_have_the_columns_of_the_catalogue(model: Recommender) -> None:
    new = copy(model)
    new.items = model.items.assign(shade=["teal"] + [""] * (model.n_items - 1))
    assert all("shade" in new.recommend([item], 1).columns for item in model.item_ids[:4])


def test_no_pickle_is_written_or_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert (saved / "items.parquet").read_bytes()[:4] == b"PAR1"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, never)
    Recommender.load(saved)


def test_serving_known_items_needs_no_language_model(place: Path, saved: Path, tmp_path: Path) -> None:
    (place / "encoder").rename(place / "elsewhere")
    try:
        again = Recommender.load(saved)
        assert len(again.recommend(["p1"], 3)) == 3
        with pytest.raises(CrossrecError, match="encoder"):
            again.recommend(["words that were never encoded"])
    finally:
        (place / "elsewhere").rename(place / "encoder")


@pytest.mark.parametrize("name", FILES)
def test_missing_and_damaged_files_are_named(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:8] + b"?" + whole[9:]):
        (copied / name).write_bytes(broken)
        with pytest.raises(CrossrecError, match=name.replace(".", r"\.")):
            Recommender.load(copied)
    (copied / name).unlink()
    with pytest.raises(CrossrecError, match=name.replace(".", r"\.")):
        Recommender.load(copied)


def sign(folder: Path, name: str) -> None:
    """Write the hash of a changed file into the configuration, as somebody would who makes such a folder."""
    import hashlib

    config = json.loads((folder / "config.json").read_text())
    config["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("model.safetensors", "popularity"),
        ("model.safetensors", "item_knn.indptr"),
        ("model.safetensors", "item_knn.data"),
        ("vectors.safetensors", "vectors"),
        ("vectors.safetensors", "mean"),
        ("vectors.safetensors", "matrix"),
    ],
)
def test_arrays_of_another_shape_are_refused(copied: Path, name: str, array: str) -> None:
    for change in (lambda arrays: arrays | {array: arrays[array][:-1].clone()}, lambda arrays: arrays.pop(array)):
        arrays = load_file(copied / name)
        changed = change(arrays)
        save_file(changed if isinstance(changed, dict) else arrays, copied / name)
        sign(copied, name)
        with pytest.raises(CrossrecError, match=name.replace(".", r"\.")):
            Recommender.load(copied)


def test_network_and_catalogue_of_another_shape_are_refused(copied: Path) -> None:
    arrays = load_file(copied / "model.safetensors")
    name = next(name for name in arrays if name.startswith("sequence.") and arrays[name].dim() == 2)
    save_file(arrays | {name: arrays[name][:-1].clone()}, copied / "model.safetensors")
    sign(copied, "model.safetensors")
    with pytest.raises(CrossrecError, match=r"model\.safetensors"):
        Recommender.load(copied)
    pd.read_parquet(copied / "items.parquet").head(-1).to_parquet(copied / "items.parquet")
    sign(copied, "items.parquet")
    with pytest.raises(CrossrecError, match=r"items\.parquet"):
        Recommender.load(copied)


@pytest.mark.parametrize("key", ["encoder", "n_items", "weights", "knowledge", "model", "sequences", "terms", "decays"])
def test_settings_that_are_missing_or_of_another_kind_are_refused(copied: Path, key: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    for changed in ({k: v for k, v in config.items() if k != key}, config | {key: None}):
        if key == "encoder" and key in changed:
            continue
        (copied / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CrossrecError, match=r"config\.json|safetensors"):
            Recommender.load(copied)


@pytest.mark.parametrize("plans", [{"x": {"text": 1.0}}, {"0": {"weights": {"text": 1.0}, "carry": True}}])
def test_settings_of_another_version_say_so(copied: Path, plans: dict) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["knowledge"]["plans"] = plans
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrossrecError, match=r"config\.json: found settings .*saved by crossrec .*an older version"):
        Recommender.load(copied)


def test_other_folders_are_not_overwritten(model: Recommender, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CrossrecError, match="something that is not a saved recommender"):
        model.save(tmp_path)
    with pytest.raises(CrossrecError, match="no such folder"):
        Recommender.load(tmp_path / "nothing")


def test_ids_texts_and_source_items_in_one_history(model: Recommender) -> None:
    numbers, extra = model.numbers(["p1", "r5", "warm bread", 7, "", "p1", "warm bread"])
    n = len(model.item_ids)
    own = list(model.item_ids).index("p1")
    assert numbers == [own, n, n + 1, n + 2, own, n + 1]
    assert extra.shape == (3, model.vectors.shape[1])
    by_text = model.numbers([model.source_texts["r5"]])[1]
    np.testing.assert_allclose(extra[0], by_text[0], atol=1e-5)
    answer = model.recommend(["p1", "r5", "warm bread"], k=1000)
    assert "p1" not in set(answer.item_id) and len(answer) == n - 1
    assert answer.score.is_monotonic_decreasing and list(answer.columns) == ["item_id", "title", "score"]


def test_one_by_one_equals_all_at_once(study: Study, model: Recommender) -> None:
    some = study.test.histories.take(np.arange(12))
    items, scores = model.recommend_all(some, 7)
    for row in range(12):
        answer = model.recommend(model.item_ids[some[row]].tolist(), 7)
        assert answer.item_id.tolist() == model.item_ids[items[row]].tolist()
        np.testing.assert_allclose(answer.score, scores[row], atol=1e-5)


def test_lists_agree_with_the_ranks_of_the_study(study: Study, model: Recommender) -> None:
    items, _ = model.recommend_all(study.test.histories, len(model.item_ids))
    ranks = 1 + (items == study.test.targets[:, None]).argmax(1)
    assert np.array_equal(ranks, rank_queries(model.scorer, study.test))


def test_nobody_is_answered_with_what_is_popular(study: Study, model: Recommender) -> None:
    popularity = model.scorer.blend.terms["popularity"].values
    chosen = pd.Index(model.item_ids).get_indexer(model.recommend([], k=10).item_id)
    assert np.array_equal(popularity[chosen], np.sort(popularity)[::-1][:10])
    unpopular = study.models["zero-shot", 0].recommend([], k=3)
    assert unpopular.item_id.tolist() == model.item_ids[:3].tolist()


@pytest.mark.parametrize("history", ["oats", None, 3, [None], [1.5], [["p1"]]])
def test_what_is_no_history_is_refused(model: Recommender, history: object) -> None:
    with pytest.raises(CrossrecError, match="a list of item ids or texts"):
        model.recommend(history)


@pytest.mark.parametrize("k", [0, -1, 2.0])
def test_k_below_one_is_refused(model: Recommender, k: object) -> None:
    for ask in (lambda: model.recommend(["p1"], k), lambda: model.recommend_all(Sequences.from_lists([[0]]), k)):
        with pytest.raises(CrossrecError, match="argument k"):
            ask()


HISTORIES = pd.DataFrame(  # r1 is an item of the source
    [("bob", "p3", 2), ("bob", "p1", 1), ("ann", "p7", 5), ("ann", "unknown", 6), ("cid", "r1", 0), ("dan", None, 0)],
    columns=["user_id", "item_id", "position"],
)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet"])
def test_files_of_all_kinds_give_the_same_answers(model: Recommender, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"met.{suffix}"
    if suffix == "jsonl":
        HISTORIES.to_json(path, orient="records", lines=True)
    elif suffix == "parquet":
        HISTORIES.to_parquet(path)
    else:
        HISTORIES.to_csv(path, index=False)
    counts = [recommend_file(model, path, tmp_path / f"next.{kind}", k=4) for kind in ("parquet", "csv", "jsonl")]
    assert counts == [{"users": 4, "fallback": 2, "source": 0, "unknown": 3}] * 3
    first = pd.read_parquet(tmp_path / "next.parquet")
    assert list(first.columns) == ["user_id", "item_id", "rank", "score"]
    assert first["user_id"].tolist() == sorted(["ann", "bob", "cid", "dan"] * 4)
    assert first["rank"].tolist() == [1, 2, 3, 4] * 4
    for other in (pd.read_csv(tmp_path / "next.csv"), pd.read_json(tmp_path / "next.jsonl", lines=True)):
        assert first.astype(str).drop(columns="score").equals(other.astype(str).drop(columns="score"))
        assert np.array_equal(first["score"].to_numpy("float32"), other["score"].to_numpy("float32"))
    assert first[first.user_id == "bob"].item_id.tolist() == model.recommend(["p1", "p3"], 4).item_id.tolist()
    for nobody in ("cid", "dan"):
        assert first[first.user_id == nobody].item_id.tolist() == model.recommend([], 4).item_id.tolist()


@pytest.mark.parametrize("repeats", [False, True])
def test_where_nobody_was_met_source_items_are_read(study: Study, tmp_path: Path, repeats: bool) -> None:
    """Newcomers and regulars in one file get what each gets alone."""
    again, random = copy(study.models["zero-shot", 0]), np.random.default_rng(0)
    again.allow_repeats = repeats
    known, told = list(again.item_ids), list(again.source_texts)
    people = {f"u{n:03d}": [*random.choice(known, n % 4), *random.choice(told, n % 3)] for n in range(1, 40)}
    people = {user: [history[n] for n in random.permutation(len(history))] for user, history in people.items()}
    rows = [(user, item, n) for user, history in people.items() for n, item in enumerate(history)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "position"]).to_csv(tmp_path / "met.csv", index=False)
    counts = recommend_file(again, tmp_path / "met.csv", tmp_path / "next.parquet", k=1000)
    asked = {user: history for user, history in people.items() if history}
    assert counts == {
        "users": len(asked), "fallback": 0, "unknown": 0,
        "source": sum(item in again.source_texts for history in asked.values() for item in history),
    }  # fmt: skip
    answers = pd.read_parquet(tmp_path / "next.parquet")
    for user, history in asked.items():
        one, file = again.recommend(history, 1000), answers[answers.user_id == user]
        assert sorted(file.item_id) == sorted(one.item_id)
        scores = dict(zip(one.item_id, one.score, strict=True))
        assert np.allclose(file.score, [scores[item] for item in file.item_id], atol=1e-5)


def test_what_decided_when_to_stop_counts_as_learned(place: Path, tmp_path: Path) -> None:
    folders = [write_shop(tmp_path / name, name, seed=seed, timed=True) for seed, name in enumerate("st")]
    source, target = (cleaned(Domain.load(folder)) for folder in folders)
    recommender = Recommender(str(place / "encoder"), ModelSettings(width=16), TrainSettings(most_steps=5, epochs=1))
    rows = source.sequences
    asked = rows.times[rows.offsets[1:] - 2]  # of each user, the item before the last: validation asks for it
    assert recommender.fit(source).learned_until == max(asked) > leave_one_out(source).train.times.max()
    split = split_domains(source, target)[0]
    assert recommender.fit(source, split).learned_until == split.cut - 1


@pytest.mark.parametrize("early", [True, False])
def test_a_loaded_recommender_never_passes_over_what_it_learned_later(place: Path, tmp_path: Path, early: bool) -> None:
    folders = [write_shop(tmp_path / name, name, seed=seed, timed=True) for seed, name in enumerate("st")]
    if early:
        rows = pd.read_csv(folders[1] / "interactions.csv")
        rows.assign(timestamp=rows["timestamp"] + 800 * 86_400).to_csv(folders[1] / "interactions.csv", index=False)
    source, target = (cleaned(Domain.load(folder)) for folder in folders)
    fresh = Recommender(str(place / "encoder"), ModelSettings(width=16), TrainSettings(most_steps=20, epochs=1))
    again = Recommender.load(fresh.fit(source).save(tmp_path / "saved"))
    if early:
        _, split = again.prepared(target)
        assert split.kind == "global_time" and again.learned_until < split.valid_cut
    else:
        with pytest.raises(CrossrecError, match="later than the target's validation.*leave_one_out"):
            again.prepared(target)
    assert again.prepared(target, "leave_one_out")[1].kind == "leave_one_out"
    with pytest.raises(CrossrecError, match="leave_one_out or global_time"):
        again.prepared(target, "by colour")


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoder", 5), ("model", {}), ("settings", None), ("tune", {}), ("allow_repeats", "no")],
)
def test_an_argument_of_another_kind_is_refused_at_once(place: Path, name: str, value: object) -> None:
    with pytest.raises(CrossrecError, match=f"{name}="):
        Recommender(**{"encoder": str(place / "encoder"), name: value})


@pytest.mark.parametrize("users", [0, "all"])
def test_the_shell_says_what_somebody_unknown_gets(study: Study, tmp_path: Path, users: int | str) -> None:
    model = study.best if users else study.models["zero-shot", 0]
    model.save(tmp_path / "model")
    pd.DataFrame({"user_id": ["eve"], "item_id": ["no such item"], "position": [0]}).to_csv(
        tmp_path / "met.csv", index=False
    )
    command = [
        "recommend",
        tmp_path / "model",
        "--histories",
        tmp_path / "met.csv",
        "--out",
        tmp_path / "next.csv",
        "--k",
        "3",
    ]
    told = CliRunner().invoke(app, list(map(str, command)))
    assert told.exit_code == 0, told.output
    assert ("first items, since nothing is popular yet" in told.output) == model.nobody_met == (users == 0)
    given = pd.read_csv(tmp_path / "next.csv")["item_id"].tolist()
    assert given == model.recommend([], 3).item_id.tolist()
    assert (given == list(model.item_ids[:3])) or not model.nobody_met


def test_repeats_only_where_they_are_allowed(saved: Path, tmp_path: Path) -> None:
    again = Recommender.load(saved)
    HISTORIES.to_csv(tmp_path / "met.csv", index=False)
    for allowed in (False, True):
        again.allow_repeats = allowed
        recommend_file(again, tmp_path / "met.csv", tmp_path / "next.csv", k=1000)
        answers = pd.read_csv(tmp_path / "next.csv")
        met = answers.merge(HISTORIES, on=["user_id", "item_id"])
        assert len(met) == (3 if allowed else 0)
        assert answers.groupby("user_id").size()["bob"] == len(again.item_ids) - (0 if allowed else 2)
        assert not answers.duplicated(["user_id", "item_id"]).any()


def test_a_failed_write_leaves_the_earlier_file(model: Recommender, tmp_path: Path) -> None:
    (tmp_path / "next.csv").write_text("earlier")
    (tmp_path / "met.csv").write_text("user_id,item_id\nann,p1\n")
    with pytest.raises(CrossrecError, match="timestamp or position"):
        recommend_file(model, tmp_path / "met.csv", tmp_path / "next.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"next.csv", "met.csv"}
    assert (tmp_path / "next.csv").read_text() == "earlier"


def test_transferred_recommender_is_judged_on_its_own_catalogue(study: Study, model: Recommender) -> None:
    asked: Queries = study.test
    assert (rank_queries(model.scorer, asked) <= len(model.item_ids)).all()
    assert model.name == "p" and study.models["zero-shot", 0].name == "p"
