"""Tuning the language model: every way learns, what is frozen stays, what is killed goes on, what cannot be is said."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossrec.core import CrossrecError
from crossrec.encode import Encoder
from crossrec.finetune import finetune, hold_out, layer_shift, text_judge, tuned_encoder, tuning_log, tuning_outcome
from crossrec.layers import layer_groups
from crossrec.loop import Callback, train
from crossrec.model import ModelSettings, TwoTower
from crossrec.sequences import Sequences
from crossrec.split import Split
from crossrec.tuning import FineTuneSettings, Histories, Source, StretchTask, add_lora
from tests import strangers
from tests.conftest import ROOT
from tests.toy import N_ITEMS, item_vectors, item_words, language_model, ring, ring_queries
from tests.two_processes import TUNED, run_twice, tuned

BRIEF = FineTuneSettings(steps=8, batch=8, rate=1e-3, history=2, precision="fp32")
EAGER = FineTuneSettings(mode="full", steps=120, batch=32, rate=3e-3, keep=0.0, history=1, precision="fp32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(str(language_model(tmp_path_factory.mktemp("models") / "bert")))


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.load().state_dict()


def same(a: Encoder, b: Encoder) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def moved_groups(before: Encoder, after: Encoder) -> list[bool]:
    """Whether any weight of each group differs, embeddings first."""
    pairs = zip(layer_groups(before.load()), layer_groups(after.load()), strict=True)
    return [any(not torch.equal(a, b) for a, b in zip(*groups, strict=True)) for groups in pairs]


def nearest(encoder: Encoder) -> float:
    """The share of items of whose two nearest one is the next on the ring."""
    vectors = encoder.encode(item_words())
    alike = vectors @ vectors.T - 2 * np.eye(N_ITEMS)
    top = np.argsort(-alike, axis=1)[:, :2]
    return float((top == (np.arange(N_ITEMS)[:, None] + 1) % N_ITEMS).any(1).mean())


WAYS = {
    "full": {},
    "gradual": {"mode": "gradual", "rate": 6e-3},
    "top two, replayed": {"top": 2},
    "top two, plain": {"top": 2, "replay": False},
    "lora": {"mode": "lora", "rate": 2e-2},
    "history": {"history": 3},
    "anchored": {"anchor": 0.1},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_the_ring(start: Encoder, tmp_path: Path, way: str) -> None:
    after = finetune(start, item_words(), ring(), replace(EAGER, **WAYS[way]), tmp_path / "tuned")
    assert nearest(start) < 0.5 < 0.75 < nearest(after)
    losses = tuning_log(tmp_path / "tuned")["loss"]
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoders_learn_the_ring_too(tmp_path: Path, kind: str) -> None:
    encoder = Encoder(str(language_model(tmp_path / kind, kind)))
    after = finetune(encoder, item_words(), ring(), replace(EAGER, top=2), tmp_path / "tuned")
    assert nearest(encoder) < 0.5 < 0.75 < nearest(after)
    assert moved_groups(encoder, after) == [False, False, True, True]


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "t5", "qwen3"])
def test_other_kinds_of_models_are_tuned_too(tmp_path: Path, kind: str) -> None:
    folder = strangers.saved(tmp_path / kind, kind, "EncoderModel" if kind == "t5" else "Model")
    encoder, found = Encoder(str(folder)), {}
    ways = {"full": {"mode": "full", "accumulate": 2}, "replayed": {"top": 1}, "plain": {"top": 1, "replay": False},
            "thin": {"mode": "lora", "top": 1}, "through": {"objective": "sequence"}}
    for name, way in ways.items():
        after = finetune(encoder, item_words(), ring(), replace(BRIEF, steps=4, **way), tmp_path / name)
        found[name] = after.encode(item_words())
        assert moved_groups(encoder, after)[0] is (name in ("full", "through")) and moved_groups(encoder, after)[-1]
    np.testing.assert_allclose(found["replayed"], found["plain"], atol=1e-4)


def test_a_model_without_a_token_for_hidden_words_cannot_guess_them(tmp_path: Path) -> None:
    # BERT has a head for the next word too, but without a causal mask it would see that word
    encoder = Encoder(str(strangers.saved(tmp_path / "bert", "bert")))
    for way in ({"objective": "language"}, {"adapt": 2}):
        with pytest.raises(CrossrecError, match="'bert', and no token for hidden words"):
            finetune(encoder, item_words(), ring(), replace(BRIEF, **way), tmp_path / "tuned")


def test_through_the_sequence_model_the_ring_is_learned(start: Encoder, tmp_path: Path) -> None:
    settings = replace(EAGER, objective="sequence", new_rate=1e-2, batch=16, steps=60)
    finetune(start, item_words(), ring(), settings, tmp_path / "tuned")
    losses = tuning_log(tmp_path / "tuned")["loss"]
    assert losses[:5].mean() > 2.5 and losses[-5:].mean() < 0.4


def test_a_trained_sequence_model_is_a_better_start(start: Encoder, tmp_path: Path) -> None:
    from crossrec.train import TrainSettings
    from crossrec.train import train as train_net

    texts = sorted(item_words())
    order = np.array([texts.index(text) for text in item_words()])
    rows = ring()
    net = TwoTower(ModelSettings(ids=False, width=24, max_length=8, dropout=0.0), N_ITEMS, start.encode(texts))
    walks = Sequences(rows.offsets, order[rows.items].astype(np.int32))
    train_net(net, walks, TrainSettings(least_steps=60, rate=1e-2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    settings = replace(EAGER, objective="sequence", steps=4, whiten=False)
    finetune(start, item_words(), ring(), settings, tmp_path / "tuned", net=net)
    assert tuning_log(tmp_path / "tuned")["loss"][0] < 0.7, "untrained it costs about log 24 = 3.2"
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_sequence_model_of_another_catalogue_is_refused(start: Encoder, tmp_path: Path) -> None:
    for rows, width in ((5, 32), (N_ITEMS, 7)):
        net = TwoTower(ModelSettings(ids=False, width=8), rows, np.zeros((rows, width), np.float32))
        with pytest.raises(CrossrecError, match=rf"vectors \({rows}, {width}\); expected one for \(24, 32\)"):
            finetune(start, item_words(), ring(), replace(BRIEF, objective="sequence"), tmp_path / "tuned", net=net)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_language_modelling_learns_to_read(tmp_path: Path, kind: str) -> None:
    encoder = Encoder(str(language_model(tmp_path / kind, kind)))
    settings = replace(EAGER, objective="language", steps=80, rate=1e-2, new_rate=1e-2)
    after = finetune(encoder, item_words(), ring(), settings, tmp_path / "tuned")
    losses = tuning_log(tmp_path / "tuned")["loss"]
    assert losses[:5].mean() > 3 and losses[-10:].mean() < 0.7 * losses[:5].mean()
    assert not same(encoder, after)


def test_language_modelling_may_come_first(start: Encoder, tmp_path: Path) -> None:
    plain, adapted = (finetune(start, item_words(), ring(), replace(BRIEF, adapt=steps), tmp_path / f"tuned-{steps}")
                      for steps in (0, 6))
    assert not same(plain, adapted) and moved_groups(start, adapted) == [True] * 4
    assert sorted(path.name for path in tmp_path.iterdir() if "tuned" in path.name) == ["tuned-0", "tuned-6"]


def test_layers_that_never_learn_do_not_move(start: Encoder, tmp_path: Path) -> None:
    for replay in (True, False):
        after = finetune(start, item_words(), ring(), replace(BRIEF, top=1, replay=replay), tmp_path / "tuned")
        assert moved_groups(start, after) == [False, False, False, True]
    assert moved_groups(start, finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")) == [True] * 4


@pytest.mark.parametrize("mode", ["gradual", "lora"])
def test_replay_trains_as_the_plain_way_does(start: Encoder, tmp_path: Path, mode: str) -> None:
    settings = replace(BRIEF, mode=mode, top=2, steps=6)
    found = {}
    for replay in (True, False):
        finetune(start, item_words(), ring(), replace(settings, replay=replay), tmp_path / f"{replay}")
        found[replay] = Encoder(str(tmp_path / f"{replay}")).encode(item_words())
        assert moved_groups(start, Encoder(str(tmp_path / f"{replay}"))) == [False, False, True, True]
    if mode == "gradual":  # thin matrices are drawn for other layers too where those are there
        losses = [tuning_log(tmp_path / f"{replay}")["loss"].to_numpy() for replay in (True, False)]
        np.testing.assert_allclose(*losses, atol=1e-5)
        np.testing.assert_allclose(found[True], found[False], atol=1e-4)


def test_layers_that_sleep_cost_no_gradient(start: Encoder, tmp_path: Path) -> None:
    task = Histories(start, Source(item_words(), ring()), BRIEF, tmp_path / "below", start.encode(sorted(item_words())))
    awake = []

    class Look(Callback):
        def step(self, run) -> None:
            awake.append([all(weight.requires_grad for weight in group) for group in task.groups()])

    train(task, [Look()])
    assert awake == [(task.schedule.rates(step, 8) > 0).tolist() for step in range(8)]


def test_lora_is_merged_and_moves_no_embedding(start: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="pip install 'crossrec[llm]'")
    after = finetune(start, item_words(), ring(), replace(BRIEF, mode="lora", rate=1e-2), tmp_path / "tuned")
    assert moved_groups(start, after) == [False, True, True, True]
    shapes = [{name: value.shape for name, value in weights(encoder).items()} for encoder in (start, after)]
    assert shapes[0] == shapes[1]


def test_merged_is_unmerged(start: Encoder) -> None:
    pytest.importorskip("peft", reason="pip install 'crossrec[llm]'")
    model = start.load().eval()
    adapter = add_lora(model, 4)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in learning:
            weight.add_(0.1 * torch.randn_like(weight))
    apart = model.encode(item_words())
    adapter.merge_and_unload()
    np.testing.assert_allclose(model.encode(item_words()), apart, atol=1e-5)
    assert 0 < sum(weight.numel() for weight in learning) < 0.5 * sum(weight.numel() for weight in model.parameters())
    assert not np.allclose(apart, start.load().encode(item_words()), atol=1e-3)


@pytest.mark.parametrize("pull", ["keep", "anchor"])
def test_pulls_keep_vectors_at_home(start: Encoder, tmp_path: Path, pull: str) -> None:
    home, away = start.encode(item_words()), []
    for strength in (0.0, {"keep": 100.0, "anchor": 300.0}[pull]):
        loose = replace(BRIEF, mode="full", steps=40, **({"keep": 0.0, "anchor": 0.0} | {pull: strength}))
        after = finetune(start, item_words(), ring(), loose, tmp_path / f"tuned-{strength}")
        away.append(np.square(after.encode(item_words()) - home).sum(1).mean())
    assert away[1] < 0.2 * away[0]


def test_what_is_no_better_than_untrained_is_not_kept(start: Encoder, tmp_path: Path) -> None:
    looks = iter([0.5, 0.5, 0.1, 0.4, 0.5, 0.2])  # the untrained one twice, as others read it and as training does
    after = finetune(start, item_words(), ring(), replace(BRIEF, epochs=4), tmp_path / "tuned", lambda v: next(looks))
    assert same(start, after) and json.loads((after.folder / "finetune.json").read_text())["kept"] == "untrained"
    log = tuning_log(after.folder)
    assert log["valid"].dropna().tolist() == [0.5, 0.1, 0.4, 0.5] and log["step"].tolist()[0] == -1


def test_the_best_look_is_kept(start: Encoder, tmp_path: Path) -> None:
    seen, values = [], iter([0.1, 0.1, 0.2, 0.9, 0.3, 0.4, 0.9])

    def judge(vectors: np.ndarray) -> float:
        seen.append(vectors)
        return next(values)

    after = finetune(start, item_words(), ring(), replace(BRIEF, epochs=4), tmp_path / "tuned", judge)
    np.testing.assert_allclose(after.encode(item_words()), seen[3], atol=0.02)
    assert np.array_equal(after.encode(item_words()), seen[6]), "in the end it is judged as others read it"
    log = tuning_log(after.folder).dropna(subset="valid")
    assert log["step"].tolist() == [-1, 1, 3, 5, 7] and log["valid"].tolist() == [0.1, 0.2, 0.9, 0.3, 0.4]


def test_the_judge_is_the_zero_shot_text_score(start: Encoder) -> None:
    from crossrec.baselines import TextSimilarity
    from crossrec.encode import soft_whiten
    from crossrec.metrics import ndcg_at
    from crossrec.ranking import rank_queries

    vectors = item_vectors()
    want = ndcg_at(rank_queries(TextSimilarity(soft_whiten(vectors)), ring_queries()), 10).mean()
    assert text_judge(ring_queries())(vectors) == pytest.approx(want)
    half = np.arange(N_ITEMS) < 12
    rows, asked = hold_out(ring(), half)
    assert not half[rows.items].any() and half[asked.targets].all() and half[asked.histories.items].all()
    assert text_judge(asked, half)(vectors) == pytest.approx(text_judge(asked, half)(vectors * half[:, None]))
    with pytest.raises(CrossrecError, match="no validation queries"):
        text_judge(asked.take(np.zeros(0, int)))


class Accident(Callback):
    """Something that happens after so many steps."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, run) -> None:
        if run.step == self.at:
            raise RuntimeError("the machine is gone")


BROKEN = {
    "gradual": (replace(BRIEF, anchor=0.5), 5),
    "lora": (replace(BRIEF, mode="lora", top=2), 3),
    "sequence": (replace(BRIEF, objective="sequence"), 7),
    "language": (replace(BRIEF, objective="language"), 5),
    "adapted": (replace(BRIEF, adapt=4), 3),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_run_goes_on_to_the_same_bits(start: Encoder, tmp_path: Path, way: str) -> None:
    settings, step = BROKEN[way]
    judge = None if way == "language" else text_judge(ring_queries())
    given = (start, item_words(), ring(), settings)
    alone = finetune(*given, tmp_path / "alone", judge)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        finetune(*given, tmp_path / "broken", judge, callbacks=[Accident(step)])
    assert (tmp_path / "broken-unfinished").is_dir() and not (tmp_path / "broken").exists()
    again = finetune(*given, tmp_path / "broken", judge)
    assert same(alone, again) and tuning_log(alone.folder).equals(tuning_log(again.folder))
    assert not (tmp_path / "broken-unfinished").exists()


def test_damaged_checkpoints_are_left_out(start: Encoder, tmp_path: Path) -> None:
    given = (start, item_words(), ring(), replace(BRIEF, top=2))
    alone, out = finetune(*given, tmp_path / "alone"), tmp_path / "tuned"
    with pytest.raises(RuntimeError, match="the machine is gone"):
        finetune(*given, out, callbacks=[Accident(5)])
    (below,) = (tmp_path / "tuned-unfinished").glob("*/below/tokens.bin")
    below.write_bytes(below.read_bytes()[:-999])
    first, newest = sorted((tmp_path / "tuned-unfinished").glob("*/steps/step-*"))
    (newest / "model.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="step-000000004 is damaged"):
        again = finetune(*given, out)
    assert same(alone, again) and tuning_log(alone.folder).equals(tuning_log(again.folder))
    with pytest.raises(RuntimeError, match="the machine is gone"):
        finetune(*given, tmp_path / "other", callbacks=[Accident(3)])
    for file in (tmp_path / "other-unfinished").glob("*/steps/step-*/model.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.warns(UserWarning), pytest.raises(CrossrecError, match="damaged checkpoints only.*begin anew"):
        finetune(*given, tmp_path / "other")


def test_changed_settings_begin_anew(start: Encoder, tmp_path: Path) -> None:
    given, other = (start, item_words(), ring()), replace(BRIEF, top=1, rate=3e-3)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        finetune(*given, replace(BRIEF, top=2), tmp_path / "tuned", callbacks=[Accident(5)])
    assert same(finetune(*given, other, tmp_path / "alone"), finetune(*given, other, tmp_path / "tuned"))
    assert not (tmp_path / "tuned-unfinished").exists()


@pytest.mark.parametrize("step", [0, 7])
def test_a_full_disk_says_so_and_loses_nothing(start: Encoder, tmp_path: Path, monkeypatch, step: int) -> None:
    given = (start, item_words(), ring(), replace(BRIEF, top=2))
    name = "sentence_transformers.SentenceTransformer.save" if step else "crossrec.layers.record"
    monkeypatch.setattr(name, lambda *given, **more: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CrossrecError, match="No space left on device.*room on a disk"):
        finetune(*given, tmp_path / "tuned")
    monkeypatch.undo()
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))
    steps = []

    class Count(Callback):
        def step(self, run) -> None:
            steps.append(run.step)

    again = finetune(*given, tmp_path / "tuned", callbacks=[Count()])
    assert steps == ([] if step else [1, 2, 3, 4, 5, 6, 7, 8])
    assert same(finetune(*given, tmp_path / "alone"), again)


@pytest.mark.slow  # a process of its own; the others are broken off by an exception
def test_a_killed_run_goes_on_to_the_same_bits(start: Encoder, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from crossrec.loop import Callback
from crossrec.finetune import finetune
from crossrec.encode import Encoder
from tests.test_finetune import BRIEF
from tests.toy import item_words, ring
class Kill(Callback):
    def step(self, run):
        if run.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
finetune(Encoder({str(start.folder)!r}), item_words(), ring(), BRIEF, {str(tmp_path / "tuned")!r}, callbacks=[Kill()])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9 and not (tmp_path / "tuned").exists()
    again = finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    assert same(finetune(start, item_words(), ring(), BRIEF, tmp_path / "alone"), again)


def test_the_folder_holds_safetensors_and_no_pickle(start: Encoder, tmp_path: Path) -> None:
    after = finetune(start, item_words(), ring(), BRIEF, tmp_path / "deep" / "tuned")
    suffixes = {file.suffix for file in after.folder.rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".txt", ".model"} and ".safetensors" in suffixes
    assert after.folder == tmp_path / "deep" / "tuned" and after.tokens == start.tokens
    assert after.fingerprint != start.fingerprint
    assert not np.allclose(after.encode(item_words()), start.encode(item_words()), atol=1e-4)
    record = json.loads((after.folder / "finetune.json").read_text())
    assert record["settings"]["steps"] == len(record["loss"]) == 8 and record["kept"] == "tuned"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["tuned"]


def test_what_is_no_tuned_model_is_not_replaced(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "novel").mkdir()
    (tmp_path / "novel" / "chapter.txt").write_text("It was a dark and stormy night.")
    monkeypatch.setattr(Encoder, "load", lambda self: 1 / 0)  # no work has begun
    for out in (tmp_path / "novel", tmp_path / "novel" / "chapter.txt", start.folder):
        with pytest.raises(CrossrecError, match="not a tuned model.*Choose another name"):
            finetune(start, item_words(), ring(), BRIEF, out)
    with pytest.raises(CrossrecError, match="cannot be written to"):
        finetune(start, item_words(), ring(), BRIEF, tmp_path / "novel" / "chapter.txt" / "below")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["chapter.txt", "novel"]


def test_a_folder_for_checkpoints_keeps_what_else_is_in_it(start: Encoder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("It was a dark and stormy night.")
    for top in (2, 1):  # what layers said in one run is nothing to another
        settings = replace(BRIEF, top=top, adapt=2)
        finetune(start, item_words(), ring(), settings, tmp_path / "tuned", checkpoints=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["novel.txt"]


def test_same_seed_same_bits_and_the_start_is_left_alone(start: Encoder, tmp_path: Path) -> None:
    before = start.fingerprint
    runs = [finetune(start, item_words(), ring(), replace(BRIEF, seed=seed), tmp_path / f"{number}")
            for number, seed in enumerate([0, 0, 1])]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])
    assert Encoder(start.name).fingerprint == before


def test_what_moved_is_seen(start: Encoder, tmp_path: Path) -> None:
    after = finetune(start, item_words(), ring(), replace(BRIEF, top=1, steps=20, rate=1e-2), tmp_path / "tuned")
    shift = layer_shift(start, after, item_words())
    assert shift.loc[["layer 1", "layer 2"]].to_numpy() == pytest.approx(1, abs=1e-5)
    assert (shift.loc["layer 3"] < 0.999).all()


def test_a_tuned_encoder_is_made_once(start: Encoder, monkeypatch) -> None:
    split = Split("leave_one_out", N_ITEMS, ring(), ring_queries(), ring_queries())
    made = tuned_encoder(start, item_words(), split, replace(EAGER, steps=40))
    assert nearest(made) > nearest(start)
    monkeypatch.setattr(sys.modules["crossrec.finetune"], "train", lambda *given: 1 / 0)  # the name is a function's too
    assert tuned_encoder(start, item_words(), split, replace(EAGER, steps=40)).folder == made.folder
    with pytest.raises(ZeroDivisionError):
        tuned_encoder(start, item_words(), replace(split, train=ring(40)), replace(EAGER, steps=40))


def test_a_batch_is_no_larger_than_the_data() -> None:
    class Five(StretchTask):
        def rows(self) -> int:
            return 5

    for processes in (1, 2):
        batches = Five(FineTuneSettings(steps=3, epochs=1, batch=8)).batches(np.random.default_rng(0), processes)
        assert [sorted(rows) for rows in batches] == [[0, 1, 2, 3, 4]] * 3


def test_one_long_text_does_not_make_all_long() -> None:
    texts = [*map(str, range(2000)), "long " * 20_000]
    tracemalloc.start()
    try:
        source = Source(texts, Sequences.from_lists([[0, 1, 2000]]))
        assert tracemalloc.get_traced_memory()[1] < 20e6, "in an array of strings each would take 400,000 bytes"
    finally:
        tracemalloc.stop()
    assert [source.texts[number] for number in source.met] == ["0", "1", texts[-1]]


@pytest.mark.parametrize("objective", ["histories", "sequence"])
@pytest.mark.parametrize(
    "texts, rows",
    [
        (item_words(), [[1], [], [2]]),
        (["the same"] * 24, [[1, 2, 3]]),
        ([""] * 24, [[1, 2, 3]]),
        ([" "] * 24, [[1, 2, 3]]),
        (item_words(), []),
        (item_words(), [[1, 2], [3, 2]]),
    ],
    ids=["no neighbours", "one text", "no text", "blanks", "nobody", "one answer"],
)
def test_nothing_to_learn_from_says_so(start: Encoder, tmp_path: Path, texts: list, rows: list, objective: str) -> None:
    told = "finetune: found (no two neighbours with different texts|one text that anybody takes next)"
    with pytest.raises(CrossrecError, match=told):
        finetune(start, texts, Sequences.from_lists(rows), replace(BRIEF, objective=objective), tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_no_words_to_guess_says_so(start: Encoder, tmp_path: Path) -> None:
    for text in ("", " "):
        with pytest.raises(CrossrecError, match="finetune: found no text of two tokens"):
            finetune(start, [text] * 24, ring(), replace(BRIEF, objective="language"), tmp_path / "tuned")


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"mode": "slow"}, "'slow'.*'gradual' or 'full' or 'lora'"),
        ({"objective": "luck"}, "'luck'.*'histories' or 'sequence' or 'language'"),
        ({"steps": 0}, "steps=0; expected a whole number above 0"),
        ({"steps": 2.5}, "steps=2.5; expected a whole number"),
        ({"batch": "many"}, "batch='many'; expected a whole number"),
        ({"top": True}, "top=True; expected a whole number"),
        ({"seed": -1}, "seed=-1; expected a whole number, 0 or more"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"top": -1}, "top=-1; expected a whole number, 0 or more"),
        ({"accumulate": 9, "objective": "sequence"}, "accumulate=9 parts of a batch of 8; expected at least 1 in each"),
        ({"accumulate": 5}, "accumulate=5 parts of a batch of 8; expected at least 2 in each"),
        ({"precision": "fp8"}, "'fp8'"),
    ],
)
def test_settings_that_cannot_be_meant_say_so(start: Encoder, tmp_path: Path, wrong: dict, told: str) -> None:
    with pytest.raises(CrossrecError, match=told):
        finetune(start, item_words(), ring(), replace(BRIEF, **wrong), tmp_path / "tuned")


def test_too_few_texts_say_so(start: Encoder, tmp_path: Path) -> None:
    for texts, rows in ((item_words()[:5], ring()), ([], ring()), ([], Sequences.from_lists([]))):
        with pytest.raises(CrossrecError, match=f"{len(texts)} texts and item number"):
            finetune(start, texts, rows, BRIEF, tmp_path / "tuned")
    rows = Sequences(np.array([0, 2]), np.array([3, -1], dtype=np.int32))
    with pytest.raises(CrossrecError, match="24 texts and item number -1"):
        finetune(start, item_words(), rows, BRIEF, tmp_path / "tuned")


def test_a_loss_that_breaks_leaves_what_was_there(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    before = Encoder(str(tmp_path / "tuned")).fingerprint
    monkeypatch.setattr("crossrec.objectives.contrast", lambda queries, *given: queries.sum() * torch.nan)
    with pytest.raises(CrossrecError, match="loss nan in step 1 .*Lower the learning rate"):
        finetune(start, item_words(), ring(), BRIEF, tmp_path / "tuned")
    monkeypatch.undo()
    assert Encoder(str(tmp_path / "tuned")).fingerprint == before
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))
    finetune(start, item_words(), ring(), replace(BRIEF, rate=1e-4), tmp_path / "tuned")  # nothing is in its way


def test_without_peft_lora_says_what_to_install(start: Encoder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CrossrecError, match=r"crossrec\[llm\]"):
        finetune(start, item_words(), ring(), replace(BRIEF, mode="lora"), tmp_path / "tuned")


def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    language_model(tmp_path / "start")
    first, second = run_twice("finetune", tmp_path)
    assert first["processes"] == second["processes"] == 2
    for name in TUNED:
        mine, other, alone = first[name], second[name], tuned(tmp_path, name, 16)
        assert mine["hash"] == other["hash"] and mine["left"] == other["left"] == [], name
        if name == "parts":
            continue  # parts have wrong answers of their own, so there are fewer
        np.testing.assert_allclose(mine["loss"], alone["loss"], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(mine["valid"], alone["valid"], atol=1e-5, err_msg=name)
        far = max(np.abs(np.subtract(value, alone["weights"][key])).max() for key, value in mine["weights"].items())
        assert far < 1e-4, name


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_rounding_does_not_decide_what_is_kept(start: Encoder, tmp_path: Path, replay: bool, precision: str) -> None:
    settings = replace(BRIEF, mode="full", rate=1e-12, top=1, replay=replay, precision=precision, epochs=2)
    judge = text_judge(ring_queries())
    after = finetune(start, item_words(), ring(), settings, tmp_path / "tuned", judge)
    assert tuning_outcome(after.folder)["kept"] == "untrained" and same(start, after)


def test_what_is_kept_is_better_as_others_read_it(start: Encoder, tmp_path: Path) -> None:
    judge = text_judge(ring_queries())
    after = finetune(start, item_words(), ring(), replace(EAGER, precision="auto", top=2), tmp_path / "tuned", judge)
    told = tuning_outcome(after.folder)
    assert told == {"kept": "tuned", "untrained": judge(start.encode(item_words())),
                    "tuned": judge(after.encode(item_words()))}
    assert told["tuned"] > told["untrained"]


def test_a_damaged_model_in_the_cache_is_tuned_again(start: Encoder) -> None:
    split = Split("leave_one_out", N_ITEMS, ring(), ring_queries(), ring_queries())
    first = tuned_encoder(start, item_words(), split, BRIEF)
    want = weights(first)
    file = first.folder / "model.safetensors"
    file.unlink()  # rather than to write into it: what was loaded may still be mapped
    file.write_bytes(b"half a file")
    with pytest.warns(UserWarning, match="damaged: the language model is tuned again"):
        again = tuned_encoder(start, item_words(), split, BRIEF)
    assert again.folder == first.folder and all(torch.equal(want[key], value) for key, value in weights(again).items())
