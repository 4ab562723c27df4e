"""Runs that are killed and taken up again, by real processes: the same numbers, and nothing computed twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.shops import write_shop
from tests.toy import language_model

SCRIPT = """
import json, sys
from pathlib import Path

import crossrec.study as study
from crossrec.domain import Domain
from crossrec.record import learned
from crossrec.recommend import Recommender
from crossrec.split import split_domains
from crossrec.train import TrainSettings

place, out, resume, steps = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4])
fits = (out.parent / (out.name + ".fits")).open("a", buffering=1)
compute, fit = study.compute, Recommender.fit

def told(name, given, view, *rest, **more):
    fits.write(f"{view.regime}-{view.target_users}-{name}-{given.settings.seed}\\n")
    return compute(name, given, view, *rest, **more)

def told_fit(self, *rest):
    fits.write("source\\n")
    return fit(self, *rest)

study.compute, Recommender.fit = told, told_fit
source, target = (Domain.load(place / name).clean() for name in ("rich", "poor"))
settings = TrainSettings(most_steps=steps, epochs=4, least_steps=10)
recommender = Recommender(str(place / "encoder"), settings=settings)
split = split_domains(source, target)[0]
recommender = learned(recommender, source, split, resume)
methods = ["random", "popularity", "text", "ease", "sasrec", "merged_item_knn", "transfer"]
done = study.transfer(recommender, target, [0, 16, "all"], [1, 0], methods=methods, resume=resume)
done.best.save(out.parent / (out.name + ".model"))
out.write_text(json.dumps({
    "results": [[r.regime, r.target_users, r.method, r.seed, r.settings, r.ranks.tolist()] for r in done.results],
    "seconds": [[r.fit_seconds, r.score_seconds] for r in done.results],
    "verdict": done.verdict, "break_even": done.break_even.text, "notes": done.notes, "table": done.table().to_csv(),
    "lists": {name: items.tolist() for name, items in done.lists.items()},
    "calibration": {name: [table.to_csv(), table.attrs] for name, table in done.calibration.items()},
    "taken_up": done.protocol["taken_up"],
}))
"""


class Place:
    """Two shops, a language model of a few thousand weights, and a script that studies them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_shop(folder / "rich", "r", seed=3)
        write_shop(folder / "poor", "p", seed=4)
        language_model(folder / "encoder")
        (folder / "script.py").write_text(SCRIPT)

    def start(self, name: str, resume: str = "", steps: int = 30) -> subprocess.Popen:
        quiet = {"CROSSREC_PROGRESS": "0", "CROSSREC_CACHE": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}
        paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"}  # the same sums every time
        resume = str(self.folder / resume) if resume else ""
        command = [sys.executable, "script.py", str(self.folder), str(self.folder / name), resume, str(steps)]
        env = os.environ | quiet | paths
        return subprocess.Popen(command, cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str | int) -> dict:
        process = self.start(*arguments)
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
        return json.loads((self.folder / str(arguments[0])).read_text())

    def fits(self, name: str) -> list[str]:
        path = self.folder / f"{name}.fits"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def whole(place: Place) -> dict:
    """A run that nobody disturbed."""
    return place.run("whole")


WHAT_COUNTS = ("results", "verdict", "break_even", "notes", "table", "lists", "calibration")


def test_a_killed_run_is_taken_up_where_it_was(place: Place, whole: dict) -> None:
    process = place.start("killed", "left")
    deadline = time.monotonic() + 240
    while len(place.fits("killed")) < 9 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (place.folder / "killed").exists()
    begun = place.fits("killed")
    assert begun[0] == "source" and 9 <= len(begun) < len(place.fits("whole"))

    again = place.run("again", "left")
    for what in WHAT_COUNTS:
        assert again[what] == whole[what], what
    repeated = set(place.fits("again")) & set(begun)
    assert repeated <= {begun[-1]}, "only what was under way when the run was killed"
    assert again["taken_up"] >= len(begun) - 2
    assert "source" not in place.fits("again")

    third = place.run("third", "left")
    assert place.fits("third") == [] and third["seconds"] == again["seconds"]
    for what in WHAT_COUNTS:
        assert third[what] == whole[what], what
    saved = [(place.folder / f"{name}.model" / "model.safetensors").read_bytes() for name in ("third", "whole")]
    assert saved[0] == saved[1]


def test_another_study_and_damaged_files_are_computed_anew(place: Place, whole: dict) -> None:
    if not place.fits("again"):
        place.run("again", "left")
    other = place.run("other", "left", 20)
    assert other["taken_up"] == 0 and "source" in place.fits("other")
    files = sorted((place.folder / "left").rglob("*.npz"))
    for path in files:
        path.write_bytes(path.read_bytes()[:-40])
    mended = place.run("mended", "left")
    assert mended["taken_up"] == 0
    for what in WHAT_COUNTS:
        assert mended[what] == whole[what], what
