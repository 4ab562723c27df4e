"""The training loop and its callbacks: equal to a plain loop, whatever the parts; events, trackers, seeds, errors."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crossrec.callbacks import Averaged, KeepBest, Samples, Trackers
from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.loop import Callback, LoopSettings, Task, linear_rate, train
from crossrec.model import ModelSettings, TwoTower
from crossrec.train import NextItem, SequenceScorer, TrainSettings, windows
from tests.toy import N_ITEMS, ring, ring_view

FP32 = {"precision": "fp32"}


class Net(nn.Module):
    """Two layers with dropout, and their loss, which is large at first so that clipping matters."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.seen: list[int] = []  # rows of each call

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return (self.layers(x) - y).square().mean()


class Points(Task):
    """Fifty noisy points; batches of uneven sizes that no number of parts divides."""

    name = "points"
    sizes = (17, 11, 1, 21)

    def __init__(self, dropout: float = 0.0, **changes: object) -> None:
        super().__init__(LoopSettings(**({"epochs": 5, "rate": 0.05, "warmup": 4, "clip": 0.5} | FP32 | changes)))
        self.model = Net(dropout)
        drawn = torch.Generator().manual_seed(2)
        self.x = torch.randn(50, 6, generator=drawn)
        self.y = 5 * self.x[:, :1] + torch.randn(50, 1, generator=drawn)

    def batches(self, rng: np.random.Generator, processes: int) -> list[np.ndarray]:
        return np.split(rng.permutation(50), np.cumsum(self.sizes)[:-1])

    def inputs(self, rows: np.ndarray, step: int) -> tuple:
        return self.x[rows], self.y[rows]


def weights(task: Task) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in task.model.parameters()])


def plain(task: Points) -> torch.Tensor:
    """The same training, written as anybody would write it."""
    settings, rng = task.settings, np.random.default_rng(task.settings.seed)
    batches = [task.batches(rng, 1) for _ in range(2 + settings.epochs)][2:]
    steps = [rows for epoch in batches for rows in epoch]
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.0, weight_decay=settings.decay)
    torch.manual_seed(settings.seed)
    for step, rows in enumerate(steps):
        optimizer.param_groups[0]["lr"] = settings.rate * linear_rate(step, len(steps), settings.warmup)
        task.model(task.x[rows], task.y[rows]).backward()
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
    return weights(task)


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_the_loop_is_the_loop_that_anybody_would_write(clip: float) -> None:
    task = Points(dropout=0.3, clip=clip)
    train(task)
    assert torch.equal(weights(task), plain(Points(dropout=0.3, clip=clip)))


def test_clipping_changes_the_run_and_cuts_no_shorter_gradient() -> None:
    ends = {clip: weights(task) for clip in (0.0, 0.5, 1e9) if train(task := Points(clip=clip)) is not None}
    assert torch.equal(ends[0.0], ends[1e9])
    assert not torch.allclose(ends[0.0], ends[0.5], atol=1e-3)


@pytest.mark.parametrize("parts", [2, 3, 7, 100])
def test_parts_of_a_batch_make_the_same_step(parts: int) -> None:
    at_once, one_by_one = Points(), Points(accumulate=parts)
    log, other = train(at_once), train(one_by_one)
    np.testing.assert_allclose(other["loss"], log["loss"], rtol=1e-5)
    torch.testing.assert_close(weights(one_by_one), weights(at_once), rtol=1e-4, atol=1e-5)
    assert max(one_by_one.model.seen) == -(-21 // parts), "no part is larger than it must be"


class Cramped(Net):
    """A device with room for so many rows at a time."""

    room = 4

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x, y)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_that_does_not_fit_is_computed_in_more_parts(accumulate: int) -> None:
    task, cramped = Points(), Points(accumulate=accumulate)
    cramped.model.__class__ = Cramped
    train(task), train(cramped)
    torch.testing.assert_close(weights(cramped), weights(task), rtol=1e-4, atol=1e-5)
    assert max(cramped.model.seen) <= Cramped.room


class RunsFull(Net):
    """Memory that ends in the second part of the first batch, when one part's gradients are there already."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = super().forward(x, y)
        if len(self.seen) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss


def test_gradients_of_parts_that_fitted_in_do_not_count_twice() -> None:
    task, cramped = Points(), Points(accumulate=2)
    cramped.model.__class__ = RunsFull
    train(task), train(cramped)
    torch.testing.assert_close(weights(cramped), weights(task), rtol=1e-4, atol=1e-5)


def test_a_single_row_that_does_not_fit_says_so() -> None:
    task = Points()
    task.model.__class__ = type("Full", (Cramped,), {"room": 0})
    with pytest.raises(CrossrecError, match="too little memory for a batch of .* rows"):
        train(task)


def test_another_error_is_not_taken_for_memory() -> None:
    task = Points()
    task.y = task.y[:, None, :3].expand(50, 7, 1)
    task.model.layers[0] = nn.Linear(5, 16)
    with pytest.raises(RuntimeError, match="shapes"):
        train(task)


def test_one_process_trains_in_one_precision_after_another() -> None:
    ends = []
    for precision in ("fp32", "bf16", "fp32", "auto", "bf16"):
        task = Points(precision=precision)
        train(task)
        ends.append(weights(task))
    assert torch.equal(ends[0], ends[2]) and torch.equal(ends[1], ends[4])
    assert not torch.equal(ends[0], ends[1]) and torch.allclose(ends[0], ends[1], atol=0.2)
    assert all(end.dtype == torch.float32 for end in ends)


def test_a_precision_that_is_not_there_says_so_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossrecError, match="'fp8'.*'auto' or 'fp32'"):
        train(Points(precision="fp8"))
    with monkeypatch.context() as patched:
        patched.setattr("accelerate.Accelerator", refuse)
        with pytest.raises(CrossrecError, match="precision 'fp16' .requires a GPU.*Choose 'auto'"):
            train(Points(precision="fp16"))
    assert len(train(Points())) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rate": -1.0}, "rate=-1.0; expected a number above 0"),
        ({"rate": float("nan")}, "rate=nan; expected a number above 0"),
        ({"epochs": 0}, "epochs=0; expected a whole number above 0"),
        ({"epochs": 1.5}, "epochs=1.5; expected a whole number above 0"),
        ({"accumulate": -1}, "accumulate=-1; expected a whole number above 0"),
        ({"seed": -1}, "seed=-1; expected a whole number, 0 or more and below 4294967296"),
        ({"seed": 2**32}, "seed=4294967296; expected a whole number, 0 or more and below 4294967296"),
        ({"clip": "none"}, "clip='none'; expected a number, 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(CrossrecError, match=re.escape(words)):
        train(Points(**wrong))


def refuse(*given: object, **named: object) -> None:
    raise ValueError("requires a GPU")


class Diary(Callback):
    """Everything it is told."""

    def __init__(self, name: str, told: list) -> None:
        self.name, self.told = name, told

    def begin(self, run) -> None:
        self.told.append((self.name, "begin", run.step))

    def step(self, run) -> None:
        assert run.task.model.training
        self.told.append((self.name, "step", run.step))

    def epoch(self, run) -> None:
        assert not run.task.model.training and run.log[-1]["epoch"] == run.epoch
        self.told.append((self.name, "epoch", run.epoch))

    def end(self, run, error) -> None:
        self.told.append((self.name, "end", type(error).__name__))


def test_callbacks_are_told_everything_in_order() -> None:
    told: list = []
    train(Points(epochs=2), [Diary("a", told), Diary("b", told)])
    events = [(kind, number) for name, kind, number in told if name == "a"]
    steps = [("step", number) for number in range(1, 9)]
    assert events == [("begin", 0), *steps[:4], ("epoch", 1), *steps[4:], ("epoch", 2), ("end", "NoneType")]
    assert [name for name, *_ in told[:-2]] == ["a", "b"] * 11 and [name for name, *_ in told[-2:]] == ["b", "a"]


class Accident(Callback):
    """Something that happens after so many steps."""

    def step(self, run) -> None:
        if run.step == 3:
            raise RuntimeError("the machine is gone")


def test_a_run_that_breaks_off_is_closed_in_every_callback() -> None:
    told: list = []
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(Points(), [Diary("a", told), Accident(), Diary("b", told)])
    assert told[-2:] == [("b", "end", "RuntimeError"), ("a", "end", "RuntimeError")]


def test_an_end_that_fails_does_not_keep_the_others_from_theirs() -> None:
    told: list = []

    class Full(Callback):
        def end(self, run, error) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        train(Points(epochs=1), [Diary("a", told), Full()])
    assert told[-1] == ("a", "end", "OSError")


def test_seeds_decide_everything_that_is_drawn() -> None:
    ends = [weights(task) for seed in (0, 0, 1) if train(task := Points(dropout=0.4, seed=seed)) is not None]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_weights_that_break_while_the_loss_is_a_number_are_noticed() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.weight.square().sqrt().sum()  # 0, with a gradient of 0 / 0

    task = Points(epochs=1)
    task.sizes, task.model = (50,), Root()
    with pytest.raises(CrossrecError, match="weights that are not numbers after step 1"):
        train(task)


def test_a_loss_that_breaks_names_its_step_also_when_nobody_looked_at_once() -> None:
    task = Points()
    inputs = task.inputs
    task.inputs = lambda rows, step: tuple(part / (0.0 if step == 6 else 1.0) for part in inputs(rows, step))
    with pytest.raises(CrossrecError, match=r"loss (nan|inf) in step 7 \(epoch 2\)"):
        train(task)


def judged(values: list[float], patience: int, epochs: int = 8) -> tuple[list[float], torch.Tensor, list[torch.Tensor]]:
    task, states = Points(epochs=epochs), []

    def judge() -> float:
        states.append(weights(task).clone())
        return values[len(states) - 1]

    log = train(task, [KeepBest(judge, patience)])
    return log["valid"].tolist(), weights(task), states


def test_training_stops_where_nothing_gets_better_and_goes_back() -> None:
    valid, end, states = judged([0.1, 0.4, 0.4, 0.3, 0.9], patience=2)
    assert valid == [0.1, 0.4, 0.4, 0.3], "an equal value is not a better one"
    assert torch.equal(end, states[1])
    valid, end, states = judged([0.1, 0.2, 0.1, 0.3, 0.2, 0.4, 0.1, 0.1], patience=2)
    assert len(valid) == 8 and torch.equal(end, states[5])


class Steps(Callback):
    """The weights after each step, and the loss of each pass."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def step(self, run) -> None:
        self.weights.append(torch.cat([weight.detach().flatten().clone() for weight in run.task.model.parameters()]))


def mean_of(steps: list[torch.Tensor], average: float) -> torch.Tensor:
    """Equation (1) of chapter 12a, written out: each step's share of the mean shrinks by those after it."""
    shares = [1 / (1 + average * (step - 1)) for step in range(1, len(steps) + 1)]
    left = [share * math.prod(1 - later for later in shares[at + 1 :]) for at, share in enumerate(shares)]
    assert abs(sum(left) - 1) < 1e-9
    return sum(share * step.double() for share, step in zip(left, steps, strict=True)).float()


@pytest.mark.parametrize("average", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("liked", ["the last weights", "their mean"])
def test_last_weights_and_their_mean_are_judged_and_the_better_kept(average: float, liked: str) -> None:
    plain, steps, looks = Steps(), Steps(), []
    losses = train(Points(), [plain])["loss"].tolist()
    task, kinds = Points(), 2 if average else 1
    best = 0 if liked == "the last weights" or not average else 1  # of the first look

    def judge() -> float:
        looks.append(weights(task).clone())
        return 1.0 if len(looks) == best + 1 else -float(len(looks))

    mean = Averaged(average)
    log = train(task, [KeepBest(judge, 9, mean=mean), mean, steps])
    assert log["loss"].tolist() == losses and log["valid"].iloc[0] == 1.0
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, steps.weights, strict=True))
    assert len(looks) == kinds * len(log)
    for epoch in range(1, len(log) + 1):
        taken = steps.weights[: 4 * epoch]
        torch.testing.assert_close(looks[kinds * (epoch - 1)], taken[-1])
        if average:
            torch.testing.assert_close(looks[kinds * epoch - 1], mean_of(taken, average))
    assert torch.equal(weights(task), looks[best])
    train(task := Points(), [Averaged(average)])
    torch.testing.assert_close(weights(task), mean_of(steps.weights, average) if average else steps.weights[-1])


@pytest.mark.parametrize("average", [-0.1, 1.5, math.nan, "a", True])
def test_a_mean_over_no_share_of_the_steps_is_refused(average: object) -> None:
    with pytest.raises(CrossrecError, match="average=.*expected 0 to 1"):
        SequenceScorer(model=ModelSettings(width=8), settings=TrainSettings(average=average)).fit(ring_view())


def test_long_runs_are_judged_about_twenty_times() -> None:
    valid, _, states = judged([number / 100 for number in range(60)], patience=3, epochs=50)
    assert len(states) == 25 and sum(map(math.isnan, valid)) == 25 and not math.isnan(valid[-1])


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found: dict[str, list[tuple[int, float]]] = {}
    for place in {file.parent for file in folder.rglob("events.out*")}:
        events = accumulator.EventAccumulator(str(place)).Reload()
        for tag in events.Tags()["scalars"]:
            found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def epoch(self, run) -> None:
        self.kept.append(run.log[-1]["loss"])


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_tensorboard_holds_the_losses_the_rates_and_the_log(tmp_path: Path, every: int) -> None:
    task, values = Points(), iter([0.1, 0.2, 0.3, 0.4, 0.5])
    log = train(task, [KeepBest(lambda: next(values)), Trackers("tensorboard", tmp_path, every)])
    shown = scalars(tmp_path)
    assert [step for step, _ in shown["loss"]] == list(range(1, 21))
    by_pass = np.array([loss for _, loss in shown["loss"]]).reshape(5, 4).mean(1)
    np.testing.assert_allclose(by_pass, log["loss"], rtol=1e-5)
    assert [step for step, _ in shown["epoch/valid"]] == [4, 8, 12, 16, 20]
    np.testing.assert_allclose([value for _, value in shown["epoch/valid"]], log["valid"], rtol=1e-6)
    for step, rate in shown["rate/0"]:
        assert rate == pytest.approx(0.05 * linear_rate(step - 1, 20, 4), rel=1e-5)


def test_a_tracker_that_is_unknown_or_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="tensorbord.*Correct the name"):
        train(Points(), [Trackers("tensorbord", tmp_path)])
    missing = next(name for name in ("comet_ml", "aim", "clearml", "dvclive") if shutil.which(name) is None)
    with pytest.raises(CrossrecError, match=f"{missing} not installed.*Install it") as caught:
        train(Points(), [Trackers(["tensorboard", missing], tmp_path)])
    assert "\n" not in str(caught.value)


def test_samples_are_printed_when_due(capsys: pytest.CaptureFixture[str]) -> None:
    train(Points(epochs=4), [Samples(lambda: "hello", every=2)])
    printed = capsys.readouterr()
    assert (printed.out + printed.err).split("\n")[:2] == ["epoch 2: hello", "epoch 4: hello"]


def test_a_scorer_hands_its_callbacks_on() -> None:
    told: list = []
    small = ModelSettings(width=16, max_length=6, text=False)
    brief = TrainSettings(epochs=2, positions=256, least_steps=1, **FP32)
    SequenceScorer(model=small, settings=brief, callbacks=[Diary("a", told)]).fit(ring_view())
    assert told[0][1] == "begin" and told[-1][1:] == ("end", "NoneType")


def test_rows_are_read_from_a_file_when_a_batch_wants_them(tmp_path: Path) -> None:
    rows = ring(users=30)
    np.save(tmp_path / "items.npy", rows.items)
    mapped = Sequences(rows.offsets, np.load(tmp_path / "items.npy", mmap_mode="r"))
    nets = []
    for sequences in (rows, mapped):
        torch.manual_seed(0)
        nets.append(TwoTower(ModelSettings(width=16, max_length=6, text=False), N_ITEMS))
        task = NextItem(nets[-1], sequences, TrainSettings(epochs=2, positions=64, least_steps=1, **FP32))
        train(task)
    assert task.sequences.items is mapped.items, "no copy of all rows is made"
    assert all(map(torch.equal, nets[0].state_dict().values(), nets[1].state_dict().values()))
    items, lengths, *_ = task.inputs(np.array([5, 2]), 0)
    read = [row[:length] for row, length in zip(items.tolist(), lengths.tolist(), strict=True)]
    assert read == [windows(rows, 6)[number].tolist() for number in (5, 2)]


@pytest.mark.slow
def test_a_compiled_model_learns_the_same() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a processor; install g++ or clang++")
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = TwoTower(ModelSettings(width=16, max_length=6, text=False, dropout=0.0), N_ITEMS)
        settings = TrainSettings(epochs=2, positions=256, least_steps=1, compile=compiled, **FP32)
        scorer = SequenceScorer(settings=settings)
        scorer.build = lambda n_items, net=net: net
        losses.append(scorer.fit(ring_view()).log["loss"])
        assert not any(name.startswith("_orig_mod") for name in net.state_dict())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
