"""The package as a user gets it: quick to import, light, whole when it is installed from its wheel."""

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.conftest import NOT_SOURCE, ROOT


def run_python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, started away from the project's folder."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=os.environ | environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_quick_and_light() -> None:
    code = """
import sys, time
start = time.perf_counter()
import crossrec
seconds = time.perf_counter() - start
heavy = sorted({"torch", "pandas", "transformers", "nbdev", "fastcore"} & set(sys.modules))
import json; print(json.dumps([seconds, heavy]))"""
    runs = [json.loads(run_python(code)) for _ in range(3)]
    assert runs[0][1] == []
    assert min(seconds for seconds, _ in runs) < 0.5


def test_no_module_needs_the_notebook_tools() -> None:
    code = """
import importlib, pkgutil, sys
import crossrec
for module in pkgutil.iter_modules(crossrec.__path__):
    if not module.name.startswith("_"): importlib.import_module(f"crossrec.{module.name}")
print(*sorted({"nbdev", "fastcore", "execnb", "IPython", "crossrec._modidx"} & set(sys.modules)))"""
    assert run_python(code) == ""


@pytest.mark.parametrize(("name", "home"), [("transfer", "study"), ("evaluate", "evaluate")])
@pytest.mark.parametrize(
    "first",
    [
        "",
        "import crossrec.{name}",
        "from crossrec.{home} import {name} as function",
        "import importlib; importlib.import_module('crossrec.{name}')",
        "import crossrec.cli",
    ],
)
def test_a_function_and_a_module_may_share_a_name(name: str, home: str, first: str) -> None:
    code = f"""
{first.format(name=name, home=home)}
from crossrec import {name}
import crossrec, crossrec.{name}, inspect, sys
from crossrec.{home} import {name} as same
assert inspect.isfunction({name}) and {name} is same is crossrec.{name}
assert inspect.ismodule(sys.modules["crossrec.{name}"])"""
    assert run_python(code) == ""


def test_public_names_resolve_and_are_listed() -> None:
    code = """
import crossrec
assert set(crossrec.__all__) <= set(dir(crossrec))
for name in crossrec.__all__: getattr(crossrec, name)
try: crossrec.no_such_name
except AttributeError as error: print(error)"""
    assert "no_such_name" in run_python(code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("wheel")
    tree = shutil.copytree(ROOT, work / "tree", ignore=shutil.ignore_patterns(*NOT_SOURCE))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", work, tree]
    subprocess.run(build, check=True)
    return next(work.glob("*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"crossrec"}
    modules = {path.name for path in (ROOT / "crossrec").glob("*.py")}
    assert {name.split("/")[1] for name in names if name.startswith("crossrec/")} == modules
    assert not [name for name in names if name.endswith((".ipynb", ".pyc"))]


def test_wheel_says_what_settings_say(wheel: Path) -> None:
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    config, archive = settings["DEFAULT"], zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Name"] == config["lib_name"]
    assert metadata["Version"] == config["version"] == run_python("import crossrec; print(crossrec.__version__)")
    assert metadata["Requires-Python"] == f">={config['min_python']}"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert set(metadata.get_all("Provides-Extra")) >= {"demo", "llm", "ann", "dev"}
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(always) == len(config["requirements"].split())
    assert not [line for line in always if "==" in line or "<" in line], "runtime requirements carry lower bounds only"
    entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "crossrec = crossrec.cli:main" in entry_points
    assert "completejourney = crossrec.datasets:completejourney" in entry_points
    assert "# crossrec" in metadata.get_payload()


def test_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel], check=True
    )
    code = "import crossrec, crossrec.core; print(crossrec.__file__); print(crossrec.CrossrecError('a', 'b', 'c'))"
    file, message = run_python(code, PYTHONPATH=str(place)).splitlines()
    assert Path(file).is_relative_to(place)
    assert message == "found a; expected b. c"
    code = "import sys; sys.argv = ['crossrec', '--help']; from crossrec.cli import main; main()"
    help_text = run_python(code, PYTHONPATH=str(place))
    assert "recommend" in help_text
