"""Every chapter runs from its first cell to its last: one test a notebook, the way nbdev_test runs it."""

from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_notebook

from tools.execute_nbs import fresh_start

CONFIG = get_config()


@pytest.mark.parametrize("notebook", [Path(path) for path in nbglob()], ids=lambda path: path.stem)
def test_notebook(notebook: Path) -> None:
    fresh_start()
    succeeded, _ = run_notebook(notebook.absolute(), skip_flags=CONFIG.tst_flags.split(), basepath=CONFIG.config_path)
    assert succeeded, f"{notebook.name} failed; the traceback is above"
