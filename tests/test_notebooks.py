"""Every chapter runs from its first cell to its last: one test a notebook, the way nbdev_test runs it."""

from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_notebook

from tools.execute_nbs import fresh_start

CONFIG = get_config()
SLOW = {"12f_devices", "14i_search"}  # a minute and more each; test_devices and test_search try the same, smaller


def chapter(path: Path) -> object:
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))


@pytest.mark.parametrize("notebook", [chapter(Path(path)) for path in nbglob()])
def test_notebook(notebook: Path) -> None:
    fresh_start()
    succeeded, _ = run_notebook(notebook.absolute(), skip_flags=CONFIG.tst_flags.split(), basepath=CONFIG.config_path)
    assert succeeded, f"{notebook.name} failed; the traceback is above"
