"""What the tests share: the environment they run in, a copy of the tree to change, real data where there is some."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("CROSSREC_PROGRESS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small, and two of them run at the same time
os.environ["MPLBACKEND"] = "Agg"

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = (".*", "_docs", "_proc", "report", "build", "dist", "*.egg-info", "__pycache__", "node_modules")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the project's sources, for tests that write into them."""
    return Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(*NOT_SOURCE)))


@pytest.fixture
def real_domain() -> Callable[[str], Path]:
    """The folder of a real domain by its name; where there is none the test is skipped, with the path named."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("CROSSREC_DATA", "CROSSREC_DATA-is-not-set")) / name
        if not folder.is_dir():
            pytest.skip(f"no domain folder {folder}; set CROSSREC_DATA to the folder that holds {name}")
        return folder

    return find
