"""Every chapter runs from its first cell to its last: one test a notebook, the way nbdev_test runs it."""

from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_notebook

from tools.execute_nbs import fresh_start

CONFIG = get_config()
# a minute and more each; the tests of the same modules try the same, smaller
SLOW = {
    "06a_language_model",
    "08b_significance",
    "12f_devices",
    "13c_finetune",
    "13d_ways",
    "14f_study",
    "14i_search",
    "14j_cold_users",
    "14k_ablation",
}


def chapter(path: Path) -> object:
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))


@pytest.mark.parametrize("notebook", [chapter(Path(path)) for path in nbglob()])
def test_notebook(notebook: Path) -> None:
    fresh_start()
    succeeded, _ = run_notebook(notebook.absolute(), skip_flags=CONFIG.tst_flags.split(), basepath=CONFIG.config_path)
    assert succeeded, f"{notebook.name} failed; the traceback is above"
