"""Two real processes do what one does: curves, weights, writing, breaks; models in pieces; the configuration files."""

import argparse
import importlib.util
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from crossrec.core import CrossrecError
from crossrec.loop import Run
from tests.conftest import ROOT
from tests.two_processes import CURVES, language, language_task, launch, next_items, run_twice

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true"}


def dies(out: Path, victim: str) -> None:
    """A run with checkpoints of which processes are killed after a step; nothing may hang."""
    with launch("killed", out, VICTIM=victim) as run:
        try:
            _, told = run.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            run.terminate()
            raise
    assert run.returncode != 0 and "SIGKILL" in told


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """A run that is killed, and everything else on two processes, with the killed run going on among it."""
    out = tmp_path_factory.mktemp("pair")
    dies(out, "1:10")
    return out, *run_twice("devices", out, CONFIG=str(ROOT / "configs" / "two_cpu.yaml"), CUDA_VISIBLE_DEVICES="")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """Models cut in pieces by FSDP2, over gloo."""
    return tuple(run_twice("sharded", tmp_path_factory.mktemp("pieces"), **FSDP))


def assert_as_one_process(first: dict, second: dict, alone: dict) -> None:
    assert first["hash"] == second["hash"], "both end with equal weights"
    assert first["loss"] == second["loss"] and first["whole"] and second["whole"]
    np.testing.assert_allclose(first["loss"], alone["loss"], atol=1e-5)
    for name, weight in alone["weights"].items():  # Adam makes steps of equal size of gradients that are rounding alone
        np.testing.assert_allclose(first["weights"][name], weight, atol=2e-3, err_msg=name)


def in_one_process(name: str) -> dict:
    """The same steps: batches of twice as many predictions."""
    changes = CURVES[name]
    return next_items(**(changes | {"positions": 2 * changes.get("positions", 40)}))


@pytest.mark.parametrize("name", CURVES)
def test_two_processes_train_as_one_with_the_doubled_batch(pair: tuple, name: str) -> None:
    _, first, second = pair
    assert first["processes"] == 2, "`accelerate launch` with configs/two_cpu.yaml started them"
    assert_as_one_process(first["curves"][name], second["curves"][name], in_one_process(name))


def test_what_the_first_process_sees_counts_for_all(pair: tuple) -> None:
    _, first, second = pair
    assert first["alone"]["valid"] == second["alone"]["valid"]
    assert first["alone"]["hash"] == second["alone"]["hash"]
    assert 3 < len(first["alone"]["loss"]) < 20, "they stop early, and together"


def test_only_the_first_process_writes(pair: tuple) -> None:
    out, *_ = pair
    assert not (out / "written by 1").exists()
    written = out / "written by 0"
    assert len(list((written / "kept").glob("step-*"))) == 2 and list((written / "runs").rglob("events*"))


def test_two_processes_that_were_killed_end_with_the_same_bits(pair: tuple) -> None:
    for found in pair[1:]:
        for what in ("hash", "loss", "valid"):
            assert found["resumed"][what] == found["alone"][what]


def test_a_disk_that_is_full_ends_both_processes(pair: tuple) -> None:
    out, first, second = pair
    assert "File too large" in first["full"] and "the first process could not" in second["full"]
    assert [path.name for path in (out / "full").iterdir()] == ["step-000000005"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0:10", "both:9", "0:4", "1:25", "both:2"])
def test_killed_elsewhere(pair: tuple, tmp_path: Path, victim: str) -> None:
    dies(tmp_path, victim)
    first, second = run_twice("killed", tmp_path, VICTIM="nobody:0")
    for what in ("hash", "loss", "valid"):
        assert first[what] == second[what] == pair[1]["alone"][what]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_asked_to_stop_both_keep_where_they_were(pair: tuple, tmp_path: Path, number: signal.Signals) -> None:
    with launch("interrupted", tmp_path) as run:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        run.send_signal(number)
        _, told = run.communicate(timeout=60)
    assert run.returncode != 0 and "Start the same run again to go on." in told
    assert [path.name for path in (tmp_path / "killed").iterdir()] in (["step-000000006"], ["step-000000007"])
    first, second = run_twice("killed", tmp_path, VICTIM="nobody:0")
    assert first["hash"] == second["hash"] == pair[1]["alone"]["hash"]


@pytest.mark.parametrize("name", CURVES)
def test_a_model_in_pieces_trains_as_a_whole_one(pieces: tuple, name: str) -> None:
    first, second = pieces
    assert first["pieces"] == ["FSDP", True], "every weight is cut while it trains"
    assert_as_one_process(first["curves"][name], second["curves"][name], in_one_process(name))


def test_a_language_model_in_pieces(pieces: tuple) -> None:
    first, second = pieces
    assert_as_one_process(first["language"], second["language"], language())


def test_a_run_in_pieces_is_judged_whole_and_goes_on_with_the_same_bits(pieces: tuple, pair: tuple) -> None:
    for found in pieces:
        assert 3 < len(found["alone"]["loss"]) < 20
        for what in ("hash", "loss", "valid"):
            assert found["resumed"][what] == found["alone"][what]
        np.testing.assert_allclose(found["alone"]["loss"], pair[1]["alone"]["loss"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_as_one_process(tmp_path: Path, stage: int) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("no package deepspeed; pip install deepspeed to run this (on processors: with DS_ACCELERATOR=cpu)")
    chosen = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    first, second = run_twice("deepspeed", tmp_path, DS_ACCELERATOR="cpu", **chosen)
    assert first["pieces"] == ["DEEPSPEED", stage == 3]
    for name in CURVES:
        assert_as_one_process(first["curves"][name], second["curves"][name], in_one_process(name))
    assert_as_one_process(first["language"], second["language"], language())
    assert first["alone"]["hash"] == second["alone"]["hash"]
    assert "Use FSDP" in first["refused"] and first["refused"] == second["refused"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, so FSDP runs")
def test_pieces_without_cards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CrossrecError, match="FSDP asked for without a graphics card.*torchrun"):
        Run(language_task())
    monkeypatch.undo()
    assert not Run(language_task()).sharded


def settings_of(config: Path) -> argparse.Namespace:
    """What `accelerate launch --config_file` makes of a file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    args = launch_command_parser().parse_args(["--config_file", str(config), "-m", "crossrec"])
    return _validate_launch_command(args)[0]


def test_there_is_a_configuration_for_each_case() -> None:
    names = {path.stem for path in CONFIGS}
    assert names == {"one_cpu", "two_cpu", "one_gpu", "gpus", "fsdp", "zero2", "zero3", "two_machines"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration_and_knows_every_key(config: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    load_config_from_file(str(config))  # an unknown key at the top is an error
    known = {action.dest for action in launch_command_parser()._actions}
    content = yaml.safe_load(config.read_text())
    inner = {**content.get("fsdp_config", {}), **content.get("deepspeed_config", {})}
    assert set(inner) <= known, "and so is one within"
    args = settings_of(config)
    assert all(getattr(args, key) == value for key, value in inner.items())
    assert args.num_processes == content["num_processes"] and config.read_text().startswith("# ")


def test_a_configuration_starts_what_it_says() -> None:
    started = {path.stem: settings_of(path) for path in CONFIGS}
    assert {name for name, args in started.items() if args.use_fsdp} == {"fsdp"}
    assert {name for name, args in started.items() if args.use_deepspeed} == {"zero2", "zero3"}
    assert {name for name, args in started.items() if args.multi_gpu} == {"two_cpu", "gpus", "two_machines"}
    assert (started["zero2"].zero_stage, started["zero3"].zero_stage) == (2, 3)
    assert started["fsdp"].fsdp_version == 2 and started["two_machines"].num_machines == 2
