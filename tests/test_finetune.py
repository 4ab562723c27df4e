"""Tuning the language model: which layers move and when, what is saved, what cannot be learned."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec import finetune as chapter
from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.encode import Encoder
from crossrec.finetune import (
    FineTuneSettings,
    UnfreezeSchedule,
    draw_pairs,
    finetune,
    layer_groups,
    text_pairs,
    tuning_log,
)
from tests.toy import item_words, language_model, ring
from tests.two_processes import run_twice

BRIEF = FineTuneSettings(steps=8, batch=8, rate=1e-3)
schedules = st.builds(
    UnfreezeSchedule,
    groups=st.integers(1, 40),
    rate=st.floats(1e-6, 1e-2),
    decay=st.floats(1, 5),
    until=st.floats(0, 1),
    rise=st.floats(0, 1),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(str(language_model(tmp_path_factory.mktemp("models") / "bert")))


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.load().state_dict()


def moved_groups(before: Encoder, after: Encoder) -> list[bool]:
    """Whether any weight of each group differs, embeddings first."""
    pairs = zip(layer_groups(before.load()), layer_groups(after.load()), strict=True)
    return [any(not torch.equal(a, b) for a, b in zip(*groups, strict=True)) for groups in pairs]


@settings(max_examples=80, deadline=None)
@given(schedules, st.integers(1, 120))
def test_layers_wake_from_the_top_and_stay_awake(schedule: UnfreezeSchedule, total: int) -> None:
    rates = np.array([schedule.rates(step, total) for step in range(total)])  # [total, groups]
    awake = rates > 0
    assert rates.shape == (total, schedule.groups) and awake[:, -1].all()
    assert (awake[:, 1:] >= awake[:, :-1]).all(), "a layer is awake whenever the one below is"
    assert (awake[1:] >= awake[:-1]).all(), "nobody falls asleep again"
    np.testing.assert_array_equal(awake.argmax(0)[awake.any(0)], schedule.starts(total)[awake.any(0)])


@settings(max_examples=80, deadline=None)
@given(schedules, st.integers(1, 120))
def test_lower_layers_are_slower_and_the_triangle_slants(schedule: UnfreezeSchedule, total: int) -> None:
    rates = np.array([schedule.rates(step, total) for step in range(total)])
    assert rates.max() <= schedule.rate * (1 + 1e-9)
    both = (rates[:, 1:] > 0) & (rates[:, :-1] > 0)
    np.testing.assert_allclose((rates[:, 1:] / schedule.decay)[both], rates[:, :-1][both])
    top, peak = rates[:, -1], int(rates[:, -1].argmax())
    assert (np.diff(top[: peak + 1]) >= 0).all() and (np.diff(top[peak:]) <= 0).all()


def test_the_table_and_the_picture_tell_the_same() -> None:
    schedule = UnfreezeSchedule(groups=4, rate=1e-4)
    table = schedule.table(40)
    assert table["layer"].tolist() == ["layer 3", "layer 2", "layer 1", "embeddings"]
    assert table["learns from step"].tolist() == [0, 6, 13, 20]
    axis = schedule.plot(40).axes[0]
    assert axis.get_title(loc="left") and axis.get_xlabel() and axis.get_ylabel()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_layers_are_found_in_any_model(tmp_path: Path, kind: str) -> None:
    model = Encoder(str(language_model(tmp_path / kind, kind, layers=5))).load()
    groups = layer_groups(model)
    assert [len(group) > 0 for group in groups] == [True] * 6
    assert {id(w) for group in groups for w in group} == {id(w) for w in model.parameters()}
    names = {id(weight): name for name, weight in model.named_parameters()}
    for number, group in enumerate(groups[1:-1]):
        assert all(f".{number}." in names[id(weight)] for weight in group)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=8), st.integers(0, 99))
def test_pairs_are_neighbours_of_different_texts(rows: list[list[int]], seed: int) -> None:
    number = np.random.default_rng(seed).integers(-1, 6, 10)
    found = text_pairs(Sequences.from_lists(rows), number).tolist()
    together = [[number[a], number[b]] for row in rows for a, b in zip(row, row[1:], strict=False)]
    assert found == [[a, b] for a, b in together if a != b and a >= 0 and b >= 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 40), st.integers(2, 12))
def test_no_text_of_a_batch_both_asks_and_answers(seed: int, n: int, texts: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, texts, 50)
    pairs = np.stack([first, (first + rng.integers(1, texts, 50)) % texts], 1)
    drawn = draw_pairs(pairs, n, rng)
    assert 1 <= len(drawn) <= n
    assert {tuple(pair) for pair in drawn.tolist()} <= {tuple(pair) for pair in pairs.tolist()}
    assert not set(drawn[:, 0].tolist()) & set(drawn[:, 1].tolist())


def test_layers_that_sleep_throughout_do_not_move(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    late = UnfreezeSchedule(groups=4, rate=1e-3, until=2.0)  # after 8 of 24 steps only the top two are awake
    monkeypatch.setattr(FineTuneSettings, "schedule", lambda self, groups: late)
    tuned = finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    assert late.starts(8).tolist() == [16, 10, 5, 0]
    assert moved_groups(start, tuned) == [False, False, True, True]


def test_layers_that_sleep_cost_no_gradient(start: Encoder) -> None:
    run = chapter._Run(start, item_words(), text_pairs(ring(), np.arange(24)), BRIEF)
    for step in range(BRIEF.steps):
        run.step(step)
        awake = [all(weight.requires_grad for weight in group) for group in run.groups]
        assert awake == (run.schedule.rates(step, BRIEF.steps) > 0).tolist()


@pytest.mark.parametrize("mode", ["gradual", "full"])
def test_in_the_end_every_layer_has_moved(start: Encoder, tmp_path: Path, mode: str) -> None:
    tuned = finetune(start, item_words(), ring(), replace(BRIEF, mode=mode), tmp_path / "tuned")
    assert moved_groups(start, tuned) == [True] * 4


def test_lora_is_merged_and_moves_no_embedding(start: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="pip install 'crossrec[llm]'")
    tuned = finetune(start, item_words(), ring(), replace(BRIEF, mode="lora", rate=1e-2), tmp_path / "tuned")
    assert moved_groups(start, tuned) == [False, True, True, True]
    assert {name: value.shape for name, value in weights(tuned).items()} == {
        name: value.shape for name, value in weights(start).items()
    }


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_ring_is_learned(tmp_path: Path, kind: str) -> None:
    encoder = Encoder(str(language_model(tmp_path / kind, kind)))
    eager = FineTuneSettings(mode="full", steps=120, batch=32, rate=3e-3, keep=0.0)
    tuned = finetune(encoder, item_words(), ring(), eager, tmp_path / "tuned")
    nearest = []
    for vectors in (encoder.encode(item_words()), tuned.encode(item_words())):
        alike = vectors @ vectors.T - 2 * np.eye(len(vectors))
        top = np.argsort(-alike, axis=1)[:, :2]
        nearest.append((top == (np.arange(len(vectors))[:, None] + 1) % len(vectors)).any(1).mean())
    assert nearest[0] < 0.5 < 0.8 < nearest[1]
    losses = tuning_log(tmp_path / "tuned")["loss"]
    assert losses[-20:].mean() < 0.7 * losses[:20].mean()


def test_the_band_keeps_vectors_at_home(start: Encoder, tmp_path: Path) -> None:
    home = start.encode(item_words())
    away = []
    for keep in (0.0, 100.0):
        loose = replace(BRIEF, mode="full", steps=40, keep=keep)
        tuned = finetune(start, item_words(), ring(), loose, tmp_path / f"tuned-{keep}")
        away.append(np.square(tuned.encode(item_words()) - home).sum(1).mean())
    assert away[1] < 0.2 * away[0]


def test_the_folder_holds_safetensors_and_no_pickle(start: Encoder, tmp_path: Path) -> None:
    tuned = finetune(start, item_words(), ring(), BRIEF, tmp_path / "deep" / "tuned")
    suffixes = {file.suffix for file in tuned.folder.rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".txt", ".model"} and ".safetensors" in suffixes
    assert tuned.folder == tmp_path / "deep" / "tuned" and tuned.tokens == start.tokens
    assert tuned.fingerprint != start.fingerprint
    assert not np.allclose(tuned.encode(item_words()), start.encode(item_words()), atol=1e-4)
    record = json.loads((tuned.folder / "finetune.json").read_text())
    assert record["settings"]["steps"] == len(record["loss"]) == 8
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["tuned"]


def test_same_seed_same_bits_and_the_start_is_left_alone(start: Encoder, tmp_path: Path) -> None:
    before = start.fingerprint
    runs = [weights(finetune(start, item_words(), ring(), replace(BRIEF, seed=seed), tmp_path / f"{number}"))
            for number, seed in enumerate([0, 0, 1])]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert any(not torch.equal(value, runs[2][name]) for name, value in runs[0].items())
    assert Encoder(start.name).fingerprint == before


@pytest.mark.parametrize(
    "texts, rows",
    [
        (item_words(), [[1], [], [2]]),
        (["the same"] * 24, [[1, 2, 3]]),
        ([""] * 24, [[1, 2, 3]]),
        (item_words(), []),
    ],
    ids=["no neighbours", "one text", "no text", "nobody"],
)
def test_nothing_to_learn_from_says_so(start: Encoder, tmp_path: Path, texts: list[str], rows: list[list[int]]) -> None:
    with pytest.raises(CrossrecError, match="finetune: found no two neighbours"):
        finetune(start, texts, Sequences.from_lists(rows), BRIEF, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_an_unknown_mode_names_the_modes(start: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="'slow'.*'gradual' or 'full' or 'lora'"):
        finetune(start, item_words(), ring(), replace(BRIEF, mode="slow"), tmp_path / "tuned")


def test_too_few_texts_say_so(start: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="5 texts"):
        finetune(start, item_words()[:5], ring(), BRIEF, tmp_path / "tuned")


def test_a_loss_that_breaks_leaves_what_was_there(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    before = Encoder(str(tmp_path / "tuned")).fingerprint
    monkeypatch.setattr(chapter, "info_nce", lambda *inputs, **settings: inputs[0].sum() * torch.nan)
    with pytest.raises(CrossrecError, match="loss nan in step 0.*learning rate"):
        finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    assert Encoder(str(tmp_path / "tuned")).fingerprint == before


def test_without_peft_lora_says_what_to_install(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CrossrecError, match=r"crossrec\[llm\]"):
        finetune(start, item_words(), ring(), replace(BRIEF, mode="lora"), tmp_path / "tuned")


def test_two_processes_end_with_equal_weights(tmp_path: Path) -> None:
    language_model(tmp_path / "start")
    first, second = run_twice("finetune", tmp_path)
    assert first["processes"] == second["processes"] == 2
    assert first["weights"] == second["weights"] == first["saved"]
    assert first["drawn"] != second["drawn"], "each process draws pairs of its own"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []
