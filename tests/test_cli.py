"""The command line as a user meets it, by subprocess: what it says, what it leaves, and what others can check."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossrec.core import CrossrecError
from tests import shops
from tests.toy import language_model

CROSSREC = Path(sys.executable).parent / "crossrec"


def write_shop(folder: Path, letter: str, **more: int | bool) -> Path:
    """A toy shop; the poor one words its items otherwise, or the leakage guard finds the rich one's things in it."""
    shops.write_shop(folder, letter, **more)
    if letter == "p":
        items = pd.read_csv(folder / "items.csv")
        words = items["title"].str.split(" ", n=1, expand=True)
        items["title"] = words[0] + " " + np.roll(words[1].to_numpy(object), 5)
        items.to_csv(folder / "items.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shops, a language model of a few thousand weights, and a cache of its own."""
    place = tmp_path_factory.mktemp("cli")
    write_shop(place / "rich", "r", seed=1)
    write_shop(place / "poor", "p", seed=2)
    language_model(place / "encoder")
    return place


def start(place: Path, *arguments: str | Path) -> subprocess.Popen:
    quiet = {"CROSSREC_PROGRESS": "0", "CROSSREC_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    command = [str(CROSSREC), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=os.environ | quiet, **pipes)


def crossrec(place: Path, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """What a command writes to standard output and standard error; it must end with this exit code."""
    process = start(place, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and folder below a folder, but for the cache."""
    inside = [path for path in sorted(folder.rglob("*")) if "cache" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in inside}


def refused(place: Path, *arguments: str | Path) -> str:
    """The one line of a command that ends with exit code 2 and leaves everything as it was."""
    before = contents(place)
    out, err = crossrec(place, *arguments, code=2)
    assert contents(place) == before
    assert out == "" and err.count("\n") == 1, err
    assert err.startswith("crossrec: ") and "found " in err and "; expected " in err
    return err


FEW = ["--methods", "item_knn,text,transfer"]  # a study of all methods takes a minute
STUDIES = {
    "order": (False, ["--shots", "0,16", "--seeds", "1,0", *FEW]),
    "time and repeats": (True, ["--shots", "all", "--allow-repeats", *FEW]),
}


def study(place: Path, name: str) -> Path:
    """The report of a small study, run over an earlier one; made once."""
    timed, options = STUDIES[name]
    home, folder = place / name, place / name / "report"
    if home.exists():
        return folder
    for shop, seed in (("rich", 3), ("poor", 4)):
        write_shop(home / shop, shop[0], seed=seed, timed=timed, repeats=timed)
    (folder / "figures").mkdir(parents=True)
    (folder / "report.json").write_text("an earlier report")
    domains, encoder = [home / "rich", home / "poor"], ["--encoder", place / "encoder"]
    out, err = crossrec(place, "run", *domains, "--out", folder, *encoder, "--quick", "--save", *options)
    assert "transfer" in out and str(folder / "report.html") in out
    assert "source: Domain 'rich'" in err
    return folder


@pytest.fixture(scope="module", params=STUDIES)
def report(request: pytest.FixtureRequest, place: Path) -> Path:
    return study(place, request.param)


def test_report_is_whole_and_replaces_the_earlier_one(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    assert names == {"report.json", "report.md", "report.html", "figures", "tables", "results", "models", "test"}
    assert json.loads((report / "report.json").read_text())["protocol"]["command"].startswith("crossrec run ")
    assert not list(report.parent.glob(".partial-*"))
    assert not [path for path in report.rglob("*") if path.name.startswith(".partial-")]


def test_a_new_report_may_replace_what_a_run_left(report: Path) -> None:
    from crossrec.cli import report_folder

    assert report_folder(report) == report.resolve()


def test_saved_models_give_the_metrics_of_the_report(report: Path, place: Path) -> None:
    data = json.loads((report / "report.json").read_text())
    first = data["protocol"]["seeds"][0]
    models = sorted((report / "models").iterdir())
    assert len(models) == len(data["verdict"])
    targets = pd.read_parquet(report / "test" / "targets.parquet")
    for model in models:
        out = place / f"{report.parent.name}-{model.name}.parquet"
        histories = report / "test" / "histories.parquet"
        said, _ = crossrec(place, "recommend", model, "--histories", histories, "--k", "10", "--out", out)
        assert f"{len(targets):,} users written" in said and "; 0 rows with unknown items" in said
        ranks = targets.merge(pd.read_parquet(out), on=["user_id", "item_id"])["rank"]
        recall, ndcg = len(ranks) / len(targets), (1 / np.log2(1 + ranks)).sum() / len(targets)
        regime, users = model.name.rsplit("-", 1)
        row = next(
            row for row in data["results"]
            if (row["regime"], row["target_users"], row["method"], row["seed"])
            == (regime, int(users), "transfer", first)
        )  # fmt: skip
        assert abs(recall - row["metrics"]["recall@10"]) < 1e-12
        assert abs(ndcg - row["metrics"]["ndcg@10"]) < 1e-12
        assert 0 < recall < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "random"], ["option --split", "'random'", "leave_one_out"]),
        (["--split", "global_time"], ["timestamp", "leave_one_out"]),
        (["--shots", "some"], ["option --shots", "'some'"]),
        (["--shots", "0,500"], ["500 target users"]),
        (["--seeds", "-1"], ["option --seeds", "'-1'"]),
        (["--methods", "transfer,easy"], ["'easy'", "item_knn"]),
        (["--methods", "ease,text"], ["option --methods", "transfer, and one that never sees the source"]),
        (["--methods", "transfer,cmf"], ["option --methods", "never sees the source"]),
        (["--allow-leak", "too god"], ["too god"]),
        (["--shots", "0", "--encoder", "no-such/model"], ["encoder 'no-such/model'", "minilm"]),
    ],
    ids=" ".join,
)
def test_options_that_cannot_be_used(place: Path, options: list[str], words: list[str]) -> None:
    line = refused(place, "run", "rich", "poor", "--out", "new/report", *options)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mode=oops", ["mode 'oops'", "'gradual' or 'full' or 'lora'"]),
        ("nonsense=1", ["option --finetune", "field 'nonsense'", "objective"]),
        ("top", ["option --finetune", "'top'; expected field=value", "--finetune top=2"]),
        ("steps=2.5", ["option --finetune", "steps=2.5"]),
        ("precision=fp8", ["'fp8'", "'bf16'"]),
        ("replay=maybe", ["replay='maybe'", "a value like True"]),
    ],
)
def test_ways_of_tuning_that_cannot_be_meant(
    place: Path, given: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["run", "rich", "poor", "--encoder", "encoder", "--out", "new", "--quick", "--finetune", given]
    line = refused_here(place, command, monkeypatch, capsys)
    assert all(word in line for word in words), line


def test_a_run_may_tune_the_language_model(place: Path) -> None:
    from crossrec.cli import report_folder

    brief = {"top": 1, "steps": 4, "epochs": 2, "batch": 8, "rate": 0.01, "keep": 0.0}
    tune = [word for name, value in brief.items() for word in ("--finetune", f"{name}={value}")]
    command = ["run", "rich", "poor", "--encoder", "encoder", "--quick", "--shots", "0", "--save", *FEW, *tune]
    _, err = crossrec(place, *command, "--out", "reads anew")
    assert "language model tuned; NDCG@10 of text alone on the source's validation users" in err
    told = json.loads((place / "reads anew" / "report.json").read_text())["protocol"]["finetune"]
    assert {name: told[name] for name in brief} == brief
    outcome = {name: told.pop(name) for name in ("kept", "untrained", "tuned")}
    assert outcome["kept"] == ("untrained" if (outcome["tuned"] or 0) <= outcome["untrained"] else "tuned")
    assert json.loads((place / "reads anew/models/zero-shot-0/config.json").read_text())["tune"] == told
    assert list((place / "reads anew" / "models" / "zero-shot-0" / "encoder").glob("*.safetensors"))
    assert report_folder(place / "reads anew"), "with its language model inside it is still an earlier report"
    (place / "reads anew" / "models" / "zero-shot-0" / "encoder" / "essay.txt").write_text("a text")
    with pytest.raises(CrossrecError, match="essay.txt"):
        report_folder(place / "reads anew")


def test_a_folder_that_is_no_language_model(place: Path) -> None:
    _, err = crossrec(place, "run", "rich", "poor", "--out", "new", "--shots", "0", "--encoder", "poor", code=2)
    assert err.splitlines()[-1].startswith("crossrec: encoder 'poor': found") and "Traceback" not in err
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", ["'nowhere'", "neither a file or folder nor a known data set"]),
        ("completejourney/nutritoin", ["'nutritoin'", "nutrition"]),
    ],
)
def test_domains_that_are_not_there(place: Path, name: str, words: list[str]) -> None:
    line = refused(place, "run", "rich", name, "--out", "new")
    assert all(word in line for word in words), line


def spoil(folder: Path, how: str) -> None:
    """Break a domain folder in one way."""
    rows, items = pd.read_csv(folder / "interactions.csv"), pd.read_csv(folder / "items.csv")
    if how == "no column":
        rows = rows.rename(columns={"user_id": "customer"})
    elif how == "no items":
        (folder / "items.csv").unlink()
        return
    elif how == "no order":
        rows = rows.drop(columns="position")
    elif how == "no rows":
        rows = rows.head(0)
    elif how == "few rows":
        rows = rows.head(20)
    elif how == "no text":
        items["title"] = ""
    elif how == "other ids":
        rows["item_id"] = "x" + rows["item_id"]
    elif how == "decimal ids":
        rows["user_id"] = np.arange(len(rows)) / 2
        rows.to_parquet(folder / "interactions.parquet")
        (folder / "interactions.csv").unlink()
        return
    rows.to_csv(folder / "interactions.csv", index=False)
    items.to_csv(folder / "items.csv", index=False)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no column", ["interactions.csv", "customer", "a column user_id"]),
        ("no items", ["no file items"]),
        ("no order", ["interactions.csv", "timestamp or position"]),
        ("no rows", ["interactions.csv", "no rows"]),
        ("few rows", ["after cleaning", "no interaction of 20"]),
        ("no text", ["text", "items"]),
        ("other ids", ["after cleaning", "no interaction"]),
        ("decimal ids", ["interactions.parquet", "column user_id", "row 1"]),
    ],
)
def test_domains_that_cannot_be_used(place: Path, how: str, words: list[str]) -> None:
    folder = write_shop(place / how, "p", seed=5)
    spoil(folder, how)
    line = refused(place, "run", "rich", folder, "--out", "new")
    assert all(word in line for word in words), line


def test_places_where_no_report_can_be_put(place: Path) -> None:
    (place / "file").write_text("in the way")
    (place / "things" / "figures").mkdir(parents=True)
    (place / "things" / "report.json").write_text("{}")
    (place / "things" / "figures" / "mine.png").write_text("a picture")
    (place / "letters" / "models").mkdir(parents=True)
    (place / "letters" / "models" / "essay.txt").write_text("a text")
    cases = {
        "file": "a file", "file/below": "a file", "things": "figures/mine.png", "letters": "models/essay.txt",
        ".": "the one that you are in", "/": "/",
    }  # fmt: skip
    if Path("/proc/self").exists():
        cases["/proc/report"] = "cannot be written to"
    for out, words in cases.items():
        line = refused(place, "run", "rich", "poor", "--out", out)
        assert words in line and "--out" in line, line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_folder_that_may_not_be_written_to(place: Path) -> None:
    locked = place / "locked"
    locked.mkdir(mode=0o555)
    for out in ("locked", "locked/report"):
        assert "cannot be written to" in refused(place, "run", "rich", "poor", "--out", out)


def test_a_link_to_a_folder_is_followed_and_one_inside_is_refused(tmp_path: Path) -> None:
    from crossrec.cli import report_folder

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert report_folder(tmp_path / "link") == (tmp_path / "real").resolve()
    (tmp_path / "real" / "models").symlink_to(tmp_path)
    with pytest.raises(CrossrecError, match="'models'"):
        report_folder(tmp_path / "real")


def test_what_comes_into_the_folder_during_a_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossrec import cli

    folder = cli.report_folder(tmp_path / "report")

    def meanwhile(study: None, new: Path) -> None:
        (new / "report.json").write_text("{}")
        folder.mkdir()
        (folder / "note.txt").write_text("do not lose me")

    monkeypatch.setattr(import_module("crossrec.report"), "write_report", meanwhile)
    with pytest.raises(CrossrecError, match=r"note\.txt"):
        cli.save_report(None, folder)
    assert contents(tmp_path) == {"report": b"", "report/note.txt": b"do not lose me"}


def test_interrupted_run_leaves_nothing(place: Path) -> None:
    before = contents(place)
    process = start(place, "run", "rich", "poor", "--out", "new/report", "--encoder", "encoder", "--shots", "0")
    line = process.stderr.readline()
    assert line.startswith("source: "), line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert contents(place) == before


def metrics(folder: Path) -> list[tuple]:
    """What a report says, without how long it took."""
    rows = json.loads((folder / "report.json").read_text())["results"]
    names = ("regime", "target_users", "method", "seed", "metrics", "ci95")
    return [tuple(row[name] for name in names) for row in rows]


def kept(place: Path) -> list[Path]:
    """The finished parts of runs that were cut off."""
    return list((place / "cache" / "runs").rglob("*.npz"))


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_run_that_was_cut_off_goes_on(place: Path, how: signal.Signals) -> None:
    command = ["run", "rich", "poor", "--encoder", "encoder", "--quick", "--shots", "0,16,all", "--seeds", "0,1", *FEW]
    name = f"cut-{how.name}"
    shutil.rmtree(place / "cache" / "runs", ignore_errors=True)
    process = start(place, *command, "--out", name)
    end = time.monotonic() + 120
    while len(kept(place)) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    done = len(kept(place))
    assert 3 <= done < 10 and not (place / name).exists() and "Traceback" not in err
    assert ("give the same command again" in err) is (how == signal.SIGINT)
    _, err = crossrec(place, *command, "--out", name)
    assert f"Going on with a run that was cut off: {done + 1} finished parts" in err, "one more: what the source taught"
    report = json.loads((place / name / "report.json").read_text())
    assert report["protocol"]["taken_up"] >= done
    assert not kept(place), "when the report stands, its parts are deleted"
    whole = place / "never cut"
    if not whole.exists():
        _, err = crossrec(place, *command, "--out", whole)
        assert "Going on" not in err
    assert metrics(place / name) == metrics(whole)


def test_a_fresh_run_and_another_run_take_up_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossrec.cli import unfinished

    monkeypatch.setenv("CROSSREC_CACHE", str(place / "cache"))
    rich, poor, settings = str(place / "rich"), str(place / "poor"), ("encoder", None, False, True)
    folder = unfinished(rich, poor, *settings)
    assert folder == unfinished(str(place / ".." / place.name / "rich"), poor, *settings)
    assert folder not in (unfinished(poor, rich, *settings), unfinished(rich, poor, "encoder", None, False, False))
    folder.mkdir(parents=True)
    (folder / "old.npz").write_bytes(b"damaged")
    command = ["run", "rich", "poor", "--encoder", "encoder", "--quick", "--shots", "0", *FEW, "--out", "anew"]
    _, err = crossrec(place, *command, "--fresh")
    assert "Going on" not in err and not folder.exists()


@pytest.mark.parametrize("words", ["Stopped after step 3 of 9; kept in run/step-3. Start it again to go on.", ""])
def test_an_interruption_is_told_in_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from crossrec import cli

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt(words) if words else KeyboardInterrupt

    monkeypatch.setattr(cli, "_clean", interrupted)
    monkeypatch.setattr(sys, "argv", ["crossrec", "tune", "shop"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == f"\n{words or 'Stopped.'}\n"


SEARCH = ["tune", "big", "--encoder", "encoder", "--steps", "3", "--groups", "2", "--shots", "0"]
SEARCH += ["--space", "rate=1e-3..1e-2:log", "--set", "width=16", "--set", "layers=1"]


@pytest.fixture(scope="module")
def big(place: Path) -> Path:
    """A shop with enough people to play targets."""
    return write_shop(place / "big", "b", users=700, seed=6)


def test_search_and_use_of_its_settings(place: Path, big: Path) -> None:
    files = ["--study", "found/study.db", "--out", "found/settings.json", "--plot", "found/importance.png"]
    out, err = crossrec(place, *SEARCH, "--trials", "2", *files)
    assert "source: Domain 'big'" in err and "--settings found/settings.json" in out
    assert "settings to begin with" in out or "clearly better" in out
    assert (place / "found" / "importance.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((place / "found" / "settings.json").read_text())
    assert written["model"]["width"] == 16 and written["settings"]["most_steps"] == 5000
    again, _ = crossrec(place, *SEARCH, "--trials", "2", *files)
    assert again == out, "nothing is tried again"
    few = ["--encoder", "encoder", "--quick", "--shots", "0", "--methods", "text,transfer", "--save"]
    crossrec(place, "run", "rich", "poor", "--out", "tuned", "--settings", "found/settings.json", *few)
    saved = json.loads((place / "tuned" / "models" / "zero-shot-0" / "config.json").read_text())
    assert saved["model"]["width"] == 16 and saved["settings"]["most_steps"] == 100, "quick stays quick"


def test_a_search_that_was_interrupted_goes_on(place: Path, big: Path) -> None:
    process = start(place, *SEARCH, "--trials", "400", "--study", "cut.db")
    end = time.monotonic() + 120
    while not (place / "cut.db").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, err
    last = err.splitlines()[-1]
    assert last.startswith("Stopped after ") and "cut.db" in last and last.endswith("go on.")
    out, _ = crossrec(place, *SEARCH, "--trials", "1", "--study", "cut.db")
    assert "The " in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--space", "widht=1,2"], ["field 'widht'", "width"]),
        (["--space", "rate=0.1..0.01"], ["empty", "field rate"]),
        (["--space", "rate"], ["option --space"]),
        (["--set", "width=wide"], ["width='wide'", "option --set"]),
        (["--set", "size=3"], ["field 'size'"]),
        (["--shots", "0,some"], ["option --shots"]),
        (["--shots", "all"], ["argument shots"]),
        (["--objective", "speed"], ["'speed'", "transfer or validation"]),
        (["--trials", "0"], ["trials=0"]),
        (["--minutes", "0"], ["minutes=0"]),
        (["--out", "settings.yaml"], ["settings.yaml", "option --out", ".json"]),
        (["--out", "poor/package.json"], ["'name'"]),
        (["--plot", "poor"], ["option --plot"]),
        (["--study", "poor/items.csv"], ["items.csv", "another kind of file"]),
        (["--study", "poor"], ["a folder"]),
    ],
    ids=" ".join,
)
def test_searches_that_cannot_be_made(
    place: Path, options: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (place / "poor" / "package.json").write_text('{"name": "mine"}')
    line = refused_here(place, ["tune", "poor", "--encoder", "encoder", *options], monkeypatch, capsys)
    assert all(word in line for word in words), line


def refused_here(
    place: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> str:
    """As `refused`, in this process, which has loaded torch already; a line about the source may come before."""
    from crossrec import cli

    before = contents(place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("CROSSREC_CACHE", str(place / "cache"))
    monkeypatch.setattr(sys, "argv", ["crossrec", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("crossrec: ")]
    assert end.value.code == 2 and contents(place) == before
    assert out == "" and len(told) == 1 and "; expected " in told[0] and "Traceback" not in err, err
    return told[0]


def test_a_search_needs_a_domain_with_enough_people(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["--encoder", "encoder"]
    assert "'nowhere'" in refused(place, "tune", "nowhere", *command)
    assert "too few users" in refused_here(place, ["tune", "poor", *command], monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model": {"widht": 3}}', ["field 'widht'", "width"]),
        ('{"settings": {"rate": "fast"}}', ["rate='fast'"]),
        ('{"settings": {"rate": 0}}', ["rate=0.0", "above 0"]),
        ('{"model": {"width": 0}}', ["width=0", "1 or more"]),
        ("{", ["no JSON"]),
        (None, ["no such file"]),
    ],
)
def test_settings_that_cannot_be_used(
    place: Path, text: str | None, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = place / "wrong.json"
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    command = ["run", "rich", "poor", "--out", "new", "--settings", "wrong.json"]
    line = refused_here(place, command, monkeypatch, capsys)
    assert "wrong.json" in line and all(word in line for word in words), line


def test_reports_side_by_side(place: Path) -> None:
    report = study(place, "order")
    domains, other = [report.parent / "rich", report.parent / "poor"], place / "other"
    crossrec(place, "run", *domains, "--encoder", "encoder", "--quick", *STUDIES["order"][1], "--out", other)
    out, err = crossrec(place, "compare", report, other, "--out", place / "sides", "--methods", "all")
    assert err == "" and "No difference from report is significant" in out
    assert str(place / "sides" / "compare.html") in out
    table = pd.read_csv(place / "sides" / "compare.csv")
    assert set(table["method"]) == {"item_knn", "text", "transfer"} and (table["gain"].dropna() == 0).all()
    line = refused(place, "compare", report, study(place, "time and repeats"))
    assert "report" in line and "; expected " in line
    assert "two or more" in refused(place, "compare", report)
    assert "metric" in refused(place, "compare", report, other, "--metric", "precision")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nothing"}, ["nothing", "no such folder", "a saved recommender"]),
        ({"model": "rich"}, ["rich/config.json", "a saved recommender"]),
        ({"histories": "nothing.csv"}, ["nothing.csv", "no such file"]),
        ({"histories": "words.txt"}, ["words.txt", ".csv"]),
        ({"histories": "rich/items.csv"}, ["items.csv", "a column user_id"]),
        ({"out": "answers.xlsx"}, ["answers.xlsx", ".parquet, .csv or .jsonl"]),
        ({"out": "rich"}, ["rich", "suffix"]),
        ({"out": "folder.csv"}, ["folder.csv", "a folder"]),
        ({"out": "words.txt/answers.csv"}, ["words.txt", "cannot be written to"]),
        ({"k": "0"}, ["k=0"]),
    ],
    ids=str,
)
def test_recommend_refuses_what_cannot_be_used(place: Path, change: dict, words: list[str]) -> None:
    (place / "words.txt").write_text("user_id item_id")
    (place / "folder.csv").mkdir(exist_ok=True)
    report = study(place, "order")
    usable = {"model": report / "models" / "zero-shot-0", "histories": report / "test" / "histories.parquet"}
    given = usable | {"out": "answers.csv", "k": "5"} | change
    options = [part for name in ("histories", "out", "k") for part in (f"--{name}", given[name])]
    line = refused(place, "recommend", given["model"], *options)
    assert all(word in line for word in words), line


def test_help_and_version(place: Path) -> None:
    from crossrec import __version__

    assert crossrec(place, "--version")[0] == f"crossrec {__version__}\n"
    commands = crossrec(place, "--help")[0]
    assert all(name in commands for name in ("run", "tune", "compare", "recommend", "datasets", "--version"))
    run_help = crossrec(place, "run", "--help")[0]
    options = "SOURCE TARGET out encoder shots seeds split allow-repeats quick save methods all-methods fresh settings"
    assert all(option in run_help for option in options.split())
    assert "..." not in crossrec(place, "--help")[0].partition("Commands:")[2]


@pytest.mark.parametrize("arguments", [["run", "--nope"], ["recommend"], ["fly"], ["recommend", "x", "--k", "many"]])
def test_usage_errors_end_with_two(place: Path, arguments: list[str]) -> None:
    out, err = crossrec(place, *arguments, code=2)
    assert out == "" and "Error: " in err and "Traceback" not in err


def test_data_sets_are_listed(place: Path) -> None:
    out, err = crossrec(place, "datasets")
    assert "completejourney/grocery" in out and "completejourney/nutrition" in out and err == ""
