"""The search for settings: what it may look at, what it keeps when it is cut off, when it believes what it found."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossrec import core, search
from crossrec import trials as machinery
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.model import ModelSettings
from crossrec.search import COMPARE, CONFIRM, WEIGH, Game, Moves, OnSource, roles_of, tune
from crossrec.split import View, leave_one_out
from crossrec.train import TrainSettings
from crossrec.trials import Range, Report, Trials, changed, read_settings, run_trials
from tests.conftest import ROOT
from tests.toy import BRIEF, SMALL, clock, item_words, language_model, walks

optuna = pytest.importorskip("optuna")
SPACE = {"rate": Range(1e-5, 1.0, log=True), "width": [16, 32, 64, 128]}
BEGIN = {"rate": 0.002, "width": 64}


def hill(values: dict, report: Report, seconds: float = 0.0) -> float:
    """Settings are worth more near the top; told in three steps."""
    worth = 0.3 - 0.05 * abs(np.log(values["rate"] / 0.003)) - 0.02 * abs(np.log2(values["width"] / 64))
    for step in range(3):
        time.sleep(seconds / 3)
        report(worth, step)
    return worth


def climb(path: Path, most: int, seconds: float = 0.0, seed: int = 0) -> list:
    """So many trials on the hill, as Optuna keeps them."""
    with Trials(path, SPACE, BEGIN, {"hill": 1}, seed) as trials:
        run_trials(trials, lambda values, report: hill(values, report, seconds), most)
        return trials.all()


def outcomes(trials: list) -> list[tuple]:
    return [(one.params, one.state.name, one.value) for one in trials if one.state.name in ("COMPLETE", "PRUNED")]


def climbing(path: Path, most: int, seconds: float) -> subprocess.Popen:
    """The same in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n" \
           f"from tests.test_search import climb\nclimb(Path({str(path)!r}), {most}, {seconds})"  # fmt: skip
    quiet = os.environ | {"CROSSREC_PROGRESS": "0"}
    return subprocess.Popen([sys.executable, "-c", code], env=quiet, stderr=subprocess.PIPE, text=True)


def states(path: Path) -> list[str]:
    """What is in the file, without Optuna."""
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
    except sqlite3.OperationalError:  # the tables are being made
        return []


def wait_for(path: Path, finished: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        now = states(path)
        if sum(state in ("COMPLETE", "PRUNED") for state in now) >= finished and "RUNNING" in now:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_same_seed_same_trials_and_another_seed_others(tmp_path: Path) -> None:
    first, again = climb(tmp_path / "a.db", 8), climb(tmp_path / "b.db", 8)
    assert outcomes(first) == outcomes(again) and first[0].params == BEGIN
    assert outcomes(climb(tmp_path / "c.db", 3, seed=1)) != outcomes(first)


def test_a_search_in_two_goes_is_one_search(tmp_path: Path) -> None:
    climb(tmp_path / "a.db", 4)
    assert outcomes(climb(tmp_path / "a.db", 12)) == outcomes(climb(tmp_path / "b.db", 12))
    assert len(climb(tmp_path / "a.db", 3)) == 12, "enough are there"


@pytest.mark.parametrize("finished", [0, 4])
def test_a_killed_search_goes_on(tmp_path: Path, finished: int) -> None:
    path = tmp_path / "killed.db"
    process = climbing(path, 8, 0.3)
    wait_for(path, finished, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = states(path)
    assert "RUNNING" in before
    after = climb(path, 8)
    assert [one.state.name for one in after[: len(before)]] == [s if s != "RUNNING" else "FAIL" for s in before]
    failed = [one.params for one in after if one.state.name == "FAIL"]
    assert len(failed) == 1, "the one that was running"
    # a process may be gone before it has written down what it tries; then the same is drawn again
    assert len(failed[0]) < 2 or failed[0] in [params for params, _, _ in outcomes(after)]
    assert outcomes(after) == outcomes(climb(tmp_path / "whole.db", 8)), "as if nothing had happened"
    assert not list(tmp_path.glob("*.worker")), "locks of processes that are gone are cleared away"


def test_settings_that_kill_the_process_are_given_up(tmp_path: Path) -> None:
    def die(values: dict, report: Report) -> float:
        raise MemoryError if values != BEGIN else 0

    space = {"width": [64, 32]}
    for _ in range(4):
        with Trials(tmp_path / "a.db", space, {"width": 64}, {}) as trials, pytest.raises((MemoryError, TypeError)):
            run_trials(trials, die, 2)
    assert [one.state.name for one in trials.all()].count("FAIL") >= 3


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    workers = [climbing(path, 14, 0.05) for _ in range(2)]
    for worker in workers:
        assert worker.wait(timeout=120) == 0, worker.communicate()[1]
    with Trials(path, SPACE, BEGIN, {"hill": 1}) as trials:
        done = trials.all()
    assert [one.state.name in ("COMPLETE", "PRUNED") for one in done] == [True] * 14
    tried = [json.dumps(one.params) for one in done]
    assert len(set(tried)) == 14 and tried.count(json.dumps(BEGIN)) == 1
    assert len({one.user_attrs["worker"] for one in done}) == 2, "both worked"


def test_a_living_process_keeps_its_trial(tmp_path: Path) -> None:
    with Trials(tmp_path / "a.db", SPACE, BEGIN, {}) as trials:
        mine = machinery._next_trial(trials, 9)
        with Trials(tmp_path / "a.db", SPACE, BEGIN, {}) as others:
            theirs = machinery._next_trial(others, 9)
        assert [one.state.name for one in trials.all()] == ["RUNNING", "RUNNING"] and mine.params != theirs.params
        machinery._next_trial(trials, 9)
        assert [one.state.name for one in trials.all()] == ["RUNNING", "FAIL", "RUNNING"], "the other one is gone"
        assert trials.all()[2].params == theirs.params


def test_nothing_is_tried_twice(tmp_path: Path) -> None:
    asked = []

    def judge(values: dict, report: Report) -> float:
        asked.append(tuple(values.values()))
        return sum(values.values())

    space = {"width": [16, 32], "layers": [1, 2, 3]}
    with Trials(tmp_path / "a.db", space, {"width": 16, "layers": 2}, {}) as trials:
        run_trials(trials, judge, 30)
    assert asked[0] == (16, 2) and len(asked) == len(set(asked)) == 6, "all there are, and then it ends"


def test_trials_that_cannot_be_trained_are_noted(tmp_path: Path) -> None:
    def judge(values: dict, report: Report) -> float:
        if values["width"] == 32:
            raise CrossrecError("loss nan in step 3", "a finite loss", "Lower the learning rate.")
        return 0.1

    with Trials(tmp_path / "a.db", {"width": [64, 32]}, {"width": 64}, {}) as trials:
        run_trials(trials, judge, 2)
        assert "loss nan" in search._table(trials)["note"].iloc[1]
    with Trials(tmp_path / "b.db", {"width": [32, 64]}, {"width": 32}, {}) as trials:
        with pytest.raises(CrossrecError, match="loss nan"):  # the settings to begin with cannot be used: no search
            run_trials(trials, judge, 2)


def test_ctrl_c_waits_for_the_trial_and_says_how_to_go_on(tmp_path: Path) -> None:
    def judge(values: dict, report: Report) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return hill(values, report)

    with Trials(tmp_path / "a.db", SPACE, BEGIN, {"hill": 1}) as trials:
        with pytest.raises(KeyboardInterrupt, match=r"Stopped after 1 trials, the best .* 0\.\d+; kept in .*go on"):
            run_trials(trials, judge, 9)
        assert [one.state.name for one in trials.all()] == ["COMPLETE"]
    assert outcomes(climb(tmp_path / "a.db", 5)) == outcomes(climb(tmp_path / "b.db", 5))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def judge(values: dict, report: Report) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
        return 0.0

    before = signal.getsignal(signal.SIGINT)
    with Trials(tmp_path / "a.db", SPACE, BEGIN, {"hill": 1}) as trials:
        with pytest.raises(KeyboardInterrupt, match="Stopped after 0 trials"):
            run_trials(trials, judge, 9)
        assert [one.state.name for one in trials.all()] == ["FAIL", "WAITING"]
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_and_with_little_time(tmp_path: Path) -> None:
    done = []
    worker = threading.Thread(target=lambda: done.extend(climb(tmp_path / "a.db", 2)))
    worker.start()
    worker.join()
    assert len(done) == 2
    with Trials(tmp_path / "b.db", SPACE, BEGIN, {"hill": 1}) as trials:
        run_trials(trials, hill, 9, minutes=1e-9)
        assert [one.params for one in trials.all()] == [BEGIN], "the settings to begin with are always tried"


def spoil(path: Path, how: str) -> None:
    if how == "text":
        path.write_text("trials, trials, trials, trials")
    elif how == "folder":
        path.mkdir()
    elif how == "other tables":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE things (name TEXT)")
    elif how == "damaged":
        climb(path, 1)
        path.write_bytes(path.read_bytes()[:100] + b"x" * 5000)
    elif how == "other search":
        climb(path, 1)


@pytest.mark.parametrize(
    ("how", "words"),
    [("text", "another kind of file"), ("folder", "a folder"), ("other tables", "without trials"),
     ("damaged", "damaged"), ("other search", "a search with hill 1; expected hill 2")],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path: Path, how: str, words: str) -> None:
    path = tmp_path / "study.db"
    spoil(path, how)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(CrossrecError, match=words):
        Trials(path, SPACE, BEGIN, {"hill": 2})
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a%20b.db", "ä#.db"])
def test_any_name_of_a_file(tmp_path: Path, name: str) -> None:
    climb(tmp_path / name, 1)
    assert states(tmp_path / name) == ["COMPLETE"] or "?" in name or "%" in name or "#" in name
    assert (tmp_path / name).stat().st_size > 1000 and len(climb(tmp_path / name, 2)) == 2


def games(count: int = 2) -> list[Game]:
    """The clock: parts of a circle play the target."""
    view, vectors = walks(60, 500, seed=3, length=12).view("all"), clock(60)
    held = search.held_out_groups(pd.DataFrame({"title": ["x"] * 60}), vectors, count)
    return [search.play(view, vectors, part, roles_of(view)) for part in held]


def test_a_hopeless_trial_is_stopped_after_its_first_game(tmp_path: Path) -> None:
    moves, brief = Moves(games(), shots=(0,)), replace(BRIEF, most_steps=40)

    def judge(values: dict, report: Report) -> float:
        return float(moves(*changed(values, SMALL, brief), COMPARE, report).mean())

    space = {"rate": Range(1e-9, 1e-2, log=True)}
    with Trials(tmp_path / "a.db", space, {"rate": 5e-3}, {}) as trials:
        for rate in (4e-3, 6e-3, 7e-3, 8e-3, 1e-8):
            trials.study.enqueue_trial({"rate": rate})
        run_trials(trials, judge, 6)
        hopeless, table = trials.all()[5], search._table(trials)
    assert hopeless.params == {"rate": 1e-8} and hopeless.state.name == "PRUNED"
    assert len(hopeless.intermediate_values) == 1, "after one game of two"
    assert table["ndcg@10"][5] < table["ndcg@10"][:5].median()


def test_people_have_one_role_and_games_no_test(tmp_path: Path) -> None:
    first, second = games()
    role: dict[int, int] = {}
    for game in (first, second):
        assert isinstance(game.rest, View) and not hasattr(game.rest, "test")
        for person, part in zip(game.people.tolist(), game.roles.tolist(), strict=True):
            assert role.setdefault(person, part) == part
    assert set(role.values()) == {WEIGH, COMPARE, CONFIRM}
    split = walks(60, 500, seed=3, length=12)
    for game in (first, second):  # nobody is asked for an item that only the test or validation would know
        lengths = game.target.test.histories.lengths + 1 + 0 * game.people
        assert (lengths <= split.train.lengths[game.people]).all()


def shop(users: int = 400, shuffled: bool = False, seed: int = 0) -> Domain:
    """A shop of 24 items; where shuffled, everybody's last item is somebody else's."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(0, 24, (users, 1)) + np.cumsum(rng.integers(1, 3, (users, 12)), 1)) % 24
    if shuffled:
        rows[:, -1] = rng.permutation(rows[:, -1])
    who, what = np.repeat([f"u{u:03}" for u in range(users)], 12), [f"i{item}" for item in rows.ravel()]
    table = {"user_id": who, "item_id": what, "position": np.tile(np.arange(12), users)}
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(24)], "title": item_words()})
    return Domain.from_frames(pd.DataFrame(table), items, name="shop").clean(k_core=0, repeats="keep")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(language_model(tmp_path_factory.mktemp("lm") / "encoder"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


QUICK = {"trials": 2, "steps": 4, "groups": 2, "shots": (0,), "allow_repeats": True,
         "space": {"rate": Range(1e-3, 1e-2)}, "model": ModelSettings(width=16, layers=1)}  # fmt: skip


@pytest.mark.parametrize("objective", ["transfer", "validation"])
def test_the_test_items_of_the_source_are_never_read(
    encoder: str, tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for name, shuffled in (("as it is", False), ("shuffled", True)):
        domain = shop(shuffled=shuffled)
        split = leave_one_out(domain)
        with monkeypatch.context() as patch:
            patch.setattr(search, "leave_one_out", lambda domain, split=split: replace(split, test=None))
            found = tune(domain, study=tmp_path / f"{name}.db", encoder=encoder, objective=objective, **QUICK)
        tables.append(found.table().drop(columns="seconds"))
    assert not np.array_equal(*(leave_one_out(shop(shuffled=one)).test.targets for one in (False, True)))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["ndcg@10"].between(0.001, 1).all()


def test_only_a_clear_gain_changes_settings(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {"clear": 0.05, "chance": 0.0}
    for name, gain in gains.items():

        def told(model: object, settings: TrainSettings, role: int, report: object, gain: float = gain) -> np.ndarray:
            """Worth more with a higher rate: by more than noise, or only for those by whom trials are compared."""
            rng = np.random.default_rng([settings.seed, role, int(settings.rate * 1e6)])
            lucky = 20 * (role == COMPARE) * settings.rate
            return 0.3 + lucky + gain * (settings.rate > 0.002) + 0.05 * rng.normal(size=400)

        monkeypatch.setattr(search, "_measure", lambda *_, told=told: told)
        found = tune(shop(60), study=tmp_path / f"{name}.db", encoder=encoder, **QUICK | {"trials": 6})
        assert found.gain is not None and found.better is (name == "clear"), str(found)
        assert (found.settings.rate != 0.002) is found.better
        assert found.settings.most_steps == TrainSettings().most_steps
        assert ("clearly better" in str(found)) is found.better
        found.save(tmp_path / "settings.json")
        assert read_settings(tmp_path / "settings.json") == (found.model, found.settings)
        assert found.importance().sum() == pytest.approx(1) and len(found.plot().axes) == 2
        again = tune(shop(60), study=tmp_path / f"{name}.db", encoder=encoder, **QUICK | {"trials": 6})
        assert again.gain == found.gain and again.settings == found.settings, "nothing is computed again"


def test_the_first_settings_may_be_the_best(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_measure", lambda *_: lambda model, settings, role, report: np.full(9, -settings.rate))
    space = {"rate": Range(0.002, 0.1)}
    found = tune(shop(60), study=tmp_path / "a.db", encoder=encoder, **QUICK | {"space": space, "trials": 5})
    assert found.gain is None and not found.better and "are kept" in str(found) and len(found.plot().axes) == 2


def test_without_a_file_trials_are_kept_in_the_cache(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_measure", lambda *_: lambda model, settings, role, report: np.full(9, settings.rate))
    first = tune(shop(60), encoder=encoder, **QUICK)
    assert first.trials.path.parent == core.cache_folder() / "tune"
    assert tune(shop(60), encoder=encoder, **QUICK).trials.path == first.trials.path
    assert tune(shop(61), encoder=encoder, **QUICK).trials.path != first.trials.path


@pytest.mark.parametrize(
    ("change", "words"),
    [({"trials": 0}, "trials=0"), ({"groups": 1.5}, "groups=1.5"), ({"minutes": 0}, "minutes=0"),
     ({"shots": ()}, "shots"), ({"shots": (0, "all")}, "shots"), ({"objective": "speed"}, "'speed'"),
     ({"space": {}}, "without fields"),
     ({"space": {"widht": [64]}}, "'widht'"), ({"space": {"rate": Range(0.1, 0.01)}}, "empty"),
     ({"shots": (9000,)}, "too few users"), ({"study": Path(__file__)}, "another kind of file")],
    ids=str,
)  # fmt: skip
def test_requests_that_make_no_search(encoder: str, change: dict, words: str) -> None:
    with pytest.raises(CrossrecError, match=words):
        tune(shop(60), encoder=encoder, **QUICK | change)


def test_too_few_users(encoder: str) -> None:
    for objective in ("transfer", "validation"):
        with pytest.raises(CrossrecError, match="domain shop"):
            tune(shop(60), encoder=encoder, objective=objective, **QUICK)


def test_without_optuna_the_extra_is_named(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CrossrecError, match=r"crossrec\[tune\]"):
        tune(shop(60), encoder=encoder, **QUICK)


def test_validation_is_reported_after_epochs() -> None:
    view, told = walks(40, 400).view("all"), []
    measure = OnSource(view, clock(40), roles_of(view))
    values = measure(SMALL, replace(BRIEF, epochs=3, least_steps=1), COMPARE, lambda value, step: told.append(step))
    assert told == [1, 2, 3] and len(values) == (roles_of(view) == COMPARE).sum()
