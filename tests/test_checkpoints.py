"""Faults: runs killed, interrupted, out of disk, with losses that break; each goes on and ends with the same bits."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossrec.callbacks import KeepBest, Samples, Trackers
from crossrec.checkpoints import Checkpoints
from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.loop import Callback
from crossrec.model import ModelSettings
from crossrec.split import Queries, View
from crossrec.train import SequenceScorer, TrainSettings
from tests.conftest import ROOT
from tests.toy import N_ITEMS, item_vectors, ring, ring_view

MODEL = ModelSettings(width=16, max_length=6, dropout=0.3)
SETTINGS = TrainSettings(epochs=30, positions=100, rate=1e-2, least_steps=1, patience=3, precision="fp32")


def noisy_view() -> View:
    """Walks round the ring that are sometimes wrong, and validation queries of which a model answers some."""
    rng, rows = np.random.default_rng(3), ring(users=60)
    items = np.where(rng.random(rows.items.shape) < 0.3, rng.integers(0, N_ITEMS, rows.items.shape), rows.items)
    asked = Sequences.from_lists(rng.integers(0, N_ITEMS, (50, 3)).tolist())
    valid = Queries(np.arange(50), asked, ((asked.items[2::3] + 1) % N_ITEMS).astype(np.int32))
    return replace(ring_view(), train=Sequences(rows.offsets, items.astype(np.int32)), valid=valid, target_users=60)


class After(Callback):
    """Does something after a step, or after every one."""

    def __init__(self, at: int | None, do: Callable) -> None:
        self.at, self.do = at, do

    def step(self, run) -> None:
        if self.at in (None, run.step):
            self.do(run)


def fit(*callbacks: Callback, view: View | None = None, **changes: object) -> dict:
    """Train, and give back what two equal runs share to the last bit."""
    scorer = SequenceScorer(item_vectors(), MODEL, replace(SETTINGS, **changes), callbacks=callbacks)
    scorer.fit(view or noisy_view())
    state = {name: value.clone() for name, value in scorer.net.state_dict().items()}
    return {"state": state, "loss": scorer.log["loss"].tolist(), "valid": scorer.log["valid"].tolist()}


def equal(one: dict, other: dict) -> bool:
    states = all(torch.equal(value, other["state"][name]) for name, value in one["state"].items())
    return states and one["loss"] == other["loss"] and one["valid"] == other["valid"]


@pytest.fixture(scope="module")
def alone() -> dict:
    """A run that nothing happened to: with dropout, stopped early, gone back to its best weights."""
    steps = []
    found = fit(After(None, lambda run: steps.append(run.step)))
    assert 6 < len(found["loss"]) < 30, "the run must stop early, and not at once"
    return found | {"steps": steps[-1]}


def kept(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder; nothing else may lie there, and nothing that could run code."""
    assert all(path.name.startswith("step-") for path in folder.iterdir())
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {".safetensors", ".json"}
    return sorted(int(path.name.partition("-")[2]) for path in folder.iterdir())


def in_a_process(do: Callable[[], object]) -> int:
    """Do something in a process of its own that may die of it; its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=do)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the process hangs"
    return child.exitcode


def kill(run: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_random_steps(folder: Path, alone: dict, seed: int, kills: int) -> None:
    rng = np.random.default_rng(seed)
    every, last = int(rng.integers(2, 12)), 0
    for _ in range(kills):
        at = int(rng.integers(last + 1, alone["steps"] + 1))
        assert in_a_process(lambda at=at: fit(After(at, kill), Checkpoints(folder, every))) == -signal.SIGKILL
        last = (at - 1) // every * every
        assert [step for step in (last - every, last) if step > 0] == kept(folder)
    assert equal(fit(Checkpoints(folder, every)), alone), f"seed {seed}, a checkpoint every {every} steps"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path, alone: dict, seed: int) -> None:
    killed_at_random_steps(tmp_path / "kept", alone, seed, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_at_other_steps(tmp_path: Path, alone: dict, seed: int) -> None:
    killed_at_random_steps(tmp_path / "kept", alone, seed, kills=4)


MOMENTS = ["safetensors.torch.save_model", "safetensors.torch.save_file", "pathlib.Path.rename"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_killed_while_it_writes(tmp_path: Path, alone: dict, moment: str, before: bool) -> None:
    calls: list[int] = []

    def dies() -> None:
        patch = pytest.MonkeyPatch()
        module, _, name = moment.rpartition(".")
        owner = Path if module == "pathlib.Path" else sys.modules[module]
        real = getattr(owner, name)

        def third(*given: object, **named: object) -> object:
            calls.append(1)
            if len(calls) == 3 and before:
                kill()
            done = real(*given, **named)
            return kill() if len(calls) == 3 else done

        patch.setattr(owner, name, third)
        fit(Checkpoints(tmp_path, every=5))

    assert in_a_process(dies) == -signal.SIGKILL
    whole = [path.name for path in tmp_path.glob("step-*")]
    assert len(whole) == (1 if moment.endswith("save_file") else 3 if moment.endswith("rename") and not before else 2)
    assert equal(fit(Checkpoints(tmp_path, every=7, keep=1)), alone)
    assert kept(tmp_path) == [alone["steps"]], "what was half written is gone, and so are old ones"


def test_a_run_that_ended_is_not_trained_again(tmp_path: Path, alone: dict) -> None:
    trained: list[int] = []
    assert equal(fit(Checkpoints(tmp_path)), alone)
    again = fit(After(None, lambda run: trained.append(run.step)), Checkpoints(tmp_path))
    assert equal(again, alone) and trained == []


def test_only_so_many_are_kept_and_none_is_a_pickle(tmp_path: Path, alone: dict) -> None:
    seen: list[list[int]] = []

    class Look(Callback):
        def step(self, run) -> None:
            seen.append(kept(tmp_path))

    fit(Checkpoints(tmp_path, every=2, keep=3), Look())
    assert max(map(len, seen)) == 3 and seen[9] == [6, 8, 10]
    assert {path.name for path in (tmp_path / f"step-{alone['steps']:09d}").iterdir()} == {
        "hashes.json", "memory.safetensors", "model.safetensors", "run.json"}


SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
from crossrec.checkpoints import Checkpoints
from tests.test_checkpoints import After, fit
ready = After(13, lambda run: print("ready", flush=True))
fit(ready, After(None, lambda run: __import__("time").sleep(0.02)), Checkpoints({folder!r}, every=1000))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=str)
def test_a_run_that_is_asked_to_stop_keeps_where_it_was_and_says_how_to_go_on(
    tmp_path: Path, alone: dict, number: signal.Signals
) -> None:
    code = SCRIPT.format(root=str(ROOT), folder=str(tmp_path))
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert script.stdout.readline() == "ready\n"
    script.send_signal(number)
    _, told = script.communicate(timeout=60)
    assert script.returncode in (130, -signal.SIGINT, 1), "1 where torch's compiler was imported, as optimizers do"
    step = kept(tmp_path)[-1]
    assert 13 <= step < alone["steps"]
    assert told.rstrip().split("\n")[-1].startswith(f"KeyboardInterrupt: Stopped after step {step} of ")
    assert f"kept in {tmp_path}. Start the same run again to go on." in told
    assert equal(fit(Checkpoints(tmp_path)), alone)


def interrupted(*callbacks: Callback, **changes: object) -> str:
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(*callbacks, **changes)
    return str(caught.value)


def test_ctrl_c_while_the_model_is_judged_is_answered_after_it(tmp_path: Path, alone: dict) -> None:
    class Impatient(Callback):
        def epoch(self, run) -> None:
            if run.epoch == 3:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert "Start the same run again" in interrupted(Impatient(), Checkpoints(tmp_path, every=1000))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    state = json.loads((tmp_path / f"step-{kept(tmp_path)[0]:09d}" / "run.json").read_text())["run"]
    assert state["epoch"] == 3 and state["done"] == 0
    assert equal(fit(Checkpoints(tmp_path)), alone)


def test_a_second_ctrl_c_does_not_wait_and_harms_nothing(
    tmp_path: Path, alone: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_until(tmp_path, 10)

    def twice(run) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    assert interrupted(After(17, twice), Checkpoints(tmp_path, every=5)) == ""
    assert kept(tmp_path) == [10, 15]
    assert equal(fit(Checkpoints(tmp_path)), alone)


def fit_until(folder: Path, step: int, every: int = 5) -> None:
    """A run with checkpoints that broke off after a step."""

    def broken(run) -> None:
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(Checkpoints(folder, every), After(step, broken))


def assert_full(caught: pytest.ExceptionInfo[CrossrecError], folder: Path) -> None:
    message = str(caught.value)
    assert "no way to write a checkpoint" in message and "Make room and start the same run again" in message
    assert str(folder) in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("share", [0.1, 0.9, 1.1, 1.9])
def test_a_file_that_may_not_grow_further(tmp_path: Path, alone: dict, share: float) -> None:
    fit_until(tmp_path, 10)
    newest = tmp_path / "step-000000010"
    sizes = sorted(file.stat().st_size for file in newest.iterdir() if file.suffix == ".safetensors")
    limit = int(share * sizes[0]) if share < 1 else int(sizes[0] + (share - 1) * (sizes[1] - sizes[0]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(CrossrecError) as caught:
            fit(Checkpoints(tmp_path, every=5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_full(caught, tmp_path)
    assert kept(tmp_path) == [5, 10], "nothing is half written, and what was there is there"
    assert equal(fit(Checkpoints(tmp_path, every=5)), alone)


def test_a_disk_that_is_full(tmp_path: Path, alone: dict) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk here ({mounted.stderr.strip()}); run as root to see this")
    try:
        fit_until(disk / "kept", 10)
        with (disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
            while True:
                ballast.write(bytes(4096))
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - 2**16)  # room for a part of a checkpoint
        with pytest.raises(CrossrecError, match="No space left on device") as caught:
            fit(Checkpoints(disk / "kept", every=5))
        assert_full(caught, disk / "kept")
        assert kept(disk / "kept") == [5, 10]
        (disk / "ballast").unlink()
        assert equal(fit(Checkpoints(disk / "kept", every=5)), alone)
    finally:
        subprocess.run(["umount", disk], check=True)


def poisoned_at(step: int) -> Callback:
    """After a step, a weight that is not a number, as a broken device might make it."""

    def poison(run) -> None:
        with torch.no_grad():
            next(run.task.model.parameters()).view(-1)[0] = torch.nan

    return After(step, poison)


@pytest.mark.parametrize("at", [11, 14, 15], ids=["soon after a checkpoint", "the step before one", "at one"])
def test_a_loss_that_breaks_is_named_and_never_kept(tmp_path: Path, alone: dict, at: int) -> None:
    named = rf"(loss nan in step {at + 1}|weights that are not numbers after step {at}) "
    with pytest.raises(CrossrecError, match=named):
        fit(poisoned_at(at), Checkpoints(tmp_path, every=5))
    assert kept(tmp_path) == [5, 10]
    for path in tmp_path.rglob("*.safetensors"):
        from safetensors.torch import load_file

        assert all(value.isfinite().all() for value in load_file(path).values() if value.is_floating_point())
    assert equal(fit(Checkpoints(tmp_path, every=5)), alone)


def cut_short(path: Path) -> None:
    os.truncate(path / "model.safetensors", 100)


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "memory.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "memory.safetensors").write_bytes(data)


def lose_a_file(path: Path) -> None:
    (path / "run.json").unlink()


def lose_everything(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def lose_the_list(path: Path) -> None:
    (path / "hashes.json").write_text("{")


DAMAGE = [cut_short, flip_a_byte, lose_a_file, lose_everything, lose_the_list]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda do: do.__name__)
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_it_used(
    tmp_path: Path, alone: dict, damage: Callable[[Path], None]
) -> None:
    fit_until(tmp_path, 12)
    damage(tmp_path / "step-000000010")
    began: list[int] = []

    class Began(Callback):
        def step(self, run) -> None:
            began.append(run.step)

    with pytest.warns(UserWarning, match="step-000000010 is damaged and left out"):
        again = fit(Began(), Checkpoints(tmp_path, every=5))
    assert began[0] == 6 and equal(again, alone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(fit(Checkpoints(tmp_path)), alone)
    assert len(kept(tmp_path)) == 2


def test_where_all_are_damaged_somebody_must_decide(tmp_path: Path, alone: dict) -> None:
    fit_until(tmp_path, 12)
    for path in tmp_path.iterdir():
        flip_a_byte(path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CrossrecError, match="Delete the folder"):
        fit(Checkpoints(tmp_path))
    shutil.rmtree(tmp_path)
    assert equal(fit(Checkpoints(tmp_path)), alone)


def test_a_killed_writer_leaves_nothing_behind_for_long(tmp_path: Path) -> None:
    left = tmp_path / ".partial-step-000000777"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half of it")
    fit(Checkpoints(tmp_path), epochs=1)
    assert not left.exists() and len(kept(tmp_path)) == 1


def other_view(**changes: object) -> dict:
    return {"view": replace(noisy_view(), **changes)}


def swapped() -> Sequences:
    """The same rows with two items of one of them exchanged: sums and sizes stay what they are."""
    rows = noisy_view().train
    items = rows.items.copy()
    items[[1, 2]] = items[[2, 1]]
    assert items.tolist() != rows.items.tolist()
    return Sequences(rows.offsets, items)


OTHERS = {"epochs": {"epochs": 31}, "rate": {"rate": 1e-3}, "seed": {"seed": 1}, "positions": {"positions": 101},
          "fewer rows": other_view(train=ring(users=30)), "two items swapped": other_view(train=swapped())}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, other: str) -> None:
    fit_until(tmp_path, 6)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CrossrecError, match="other settings, data, start.*Choose another folder"):
        fit(Checkpoints(tmp_path), **OTHERS[other])
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_another_start_is_another_run(tmp_path: Path) -> None:
    def tune(start: float) -> None:
        state = {"encoder.last.weight": torch.full((16, 16), start)}
        SequenceScorer(item_vectors(), MODEL, replace(SETTINGS, epochs=2), start=state,
                       callbacks=[Checkpoints(tmp_path, every=3)]).fit(noisy_view())

    tune(0.1)
    tune(0.1)
    with pytest.raises(CrossrecError, match="other settings, data, start"):
        tune(0.2)


def test_what_does_not_change_a_step_may_change(tmp_path: Path, alone: dict) -> None:
    fit_until(tmp_path, 12)
    said: list[str] = []
    again = fit(Samples(lambda: said.append("hello") or "hello"), Checkpoints(tmp_path), patience=3, accumulate=1)
    assert equal(again, alone) and said, "a callback that was not there before begins with nothing"


def test_early_stopping_remembers_what_it_saw(tmp_path: Path, alone: dict) -> None:
    last = len(alone["loss"])
    per_epoch = alone["steps"] // last
    fit_until(tmp_path, (last - 1) * per_epoch, every=per_epoch)
    memory = json.loads((tmp_path / f"step-{(last - 1) * per_epoch:09d}" / "run.json").read_text())
    best = memory["callbacks"]["KeepBest.0"]
    assert best["value"] == max(alone["valid"]) and best["waited"] > 0
    assert equal(fit(Checkpoints(tmp_path)), alone)


def test_the_best_weights_are_those_of_the_best_look() -> None:
    best = KeepBest(lambda: 0.0)
    best.value, best.waited, best.best = 0.5, 2, {"a.b": torch.ones(2)}
    again = KeepBest(lambda: 0.0)
    again.restore(best.state())
    assert (again.value, again.waited, again.best["a.b"].tolist()) == (0.5, 2, [1.0, 1.0])


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossrecError, match="cannot be written to"):
        fit(Checkpoints(tmp_path / "file" / "kept"), epochs=1)


def test_trackers_report_no_step_twice_that_a_checkpoint_remembers(tmp_path: Path, alone: dict) -> None:
    from tests.test_loop import scalars

    def tracked(*more: Callback) -> dict:
        return fit(Trackers("tensorboard", tmp_path / "runs", every=1), *more, Checkpoints(tmp_path / "kept", every=4))

    def broken(run) -> None:
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="the machine is gone"):
        tracked(After(8, broken))
    assert equal(tracked(), alone)
    reported = [step for step, _ in scalars(tmp_path / "runs")["loss"]]
    assert sorted(set(reported)) == list(range(1, alone["steps"] + 1))
    assert len(reported) - len(set(reported)) <= 4, "only what came after the checkpoint is told again"
