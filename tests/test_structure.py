"""The house itself: the order of its rooms, notebooks and modules in step, pages that a reader can take in."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nbdev.doclinks import nbglob

from tests.conftest import ROOT

BOOK = """00_core 01_read 01a_interactions 01b_catalogue 01c_clean 01d_sequences 01e_domain 01f_layouts 01g_formats
01h_fetch 02_datasets 03_split 04_text 04a_pair 04b_leaks 05_attention 06_transformer 06a_language_model
07_losses 08_metrics 08a_beyond_accuracy 08b_significance 08c_pretrained 08d_vectors 09_encode 09a_ranking
09b_calibration 09c_together 10_baselines 10a_collaborative 10b_tuned 11_model 11a_terms 12_loop 12a_callbacks
12b_checkpoints 12c_train 12d_attention_seen 12e_rivals 12f_devices 13_layers 13a_objectives 13b_tuning
13c_finetune 13d_ways 13e_graph 13f_played 13g_borrowed 14_transfer 14a_cross_domain 14ab_strategies 14b_verdict
14c_methods
14d_guards 14e_record 14f_study 14g_proxies 14h_trials 14i_search 14j_cold_users 14k_ablation 15_evaluate
15a_transferability 15b_findings 15c_page 15d_details 15e_report 15f_compare 17_saving 17a_recommend 18_cli""".split()
NOTEBOOKS = [Path(path) for path in nbglob(ROOT / "nbs")]
MODULES = sorted(path for path in (ROOT / "crossrec").glob("*.py") if not path.stem.startswith("_"))
INIT = ROOT / "crossrec" / "__init__.py"


def name_of(path: Path) -> str:
    return path.stem


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def exported_module(notebook: Path) -> str | None:
    """The module that a notebook makes, from its `default_exp` line."""
    found = (re.search(r"^#\| *default_exp +(\S+)", "".join(cell["source"]), re.M) for cell in cells(notebook))
    return next((match[1] for match in found if match), None)


def place_in_book() -> dict[str, str]:
    """Module name to the number of its chapter, which a letter may follow: 01 < 01a < 01b < 02."""
    numbered = [path for path in NOTEBOOKS if re.match(r"\d", path.stem)]
    return {module: path.stem.split("_")[0] for path in numbered if (module := exported_module(path))}


def public_table() -> dict[str, str]:
    """The public names of the package and the modules that define them, as the lazy `__init__` lists them."""
    for node in ast.parse(INIT.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_MODULE_OF":
            return ast.literal_eval(node.value)
    raise AssertionError("crossrec/__init__.py has no _MODULE_OF")


def imported_modules(source: str) -> set[str]:
    """The crossrec modules that a module imports anywhere, inside functions too."""
    found: set[str] = set()
    owner = public_table()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in ("crossrec" if node.level else "", node.module or "") if part)
            # a public name of the package may be that of a module too: `transfer` is a function of `study`
            names = [f"crossrec.{owner.get(alias.name, alias.name)}" for alias in node.names]
            found |= set(names) if base == "crossrec" else {base}
    parts = [name.split(".")[1] for name in found if name.startswith("crossrec.")]
    return {part for part in parts if not part.startswith("__")}


@pytest.mark.parametrize("chapter", ["index", *BOOK])
def test_chapter_exists(chapter: str) -> None:
    assert (ROOT / "nbs" / f"{chapter}.ipynb").exists()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_imports_only_earlier_chapters(module: Path) -> None:
    place = place_in_book()
    assert module.stem in place, f"crossrec/{module.name} has no notebook; delete it or write one"
    later = {name for name in imported_modules(module.read_text()) if place.get(name, -1) >= place[module.stem]}
    unknown = imported_modules(module.read_text()) - set(place)
    assert not later, f"chapter {place[module.stem]} ({module.stem}) imports from its own or later chapters: {later}"
    assert not unknown, f"{module.stem} imports modules that no chapter makes: {unknown}"


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import crossrec.text
from crossrec import Domain, model
def f():
    from . import split
    from .core import need
"""
    assert imported_modules(source) == {"core", "split", "text", "domain", "model"}


def test_public_names_are_known_to_editors() -> None:
    seen = {
        alias.name: node.module
        for block in ast.parse(INIT.read_text()).body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    }
    assert seen == public_table()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_page_can_be_taken_in(notebook: Path) -> None:
    content = cells(notebook)
    title = "".join(content[0]["source"]).strip()
    assert re.fullmatch(r"# .+\n\n?> .+", title), "the first cell holds `# title` and `> description` only"
    for number, cell in enumerate(content):
        assert len(cell["source"]) <= 40 or cell["cell_type"] != "code", f"cell {number} has over 40 lines"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_imports_stand_in_cells_of_their_own(notebook: Path) -> None:
    # Building the site runs every cell with an import again, hidden ones too, and nothing that other cells would need.
    for number, cell in enumerate(cells(notebook)):
        source = "".join(cell["source"])
        exempt = re.search(r"^#\| *(export|exporti|exports|eval: *false)\b|nbdev_export\(", source, re.M)
        if cell["cell_type"] != "code" or exempt:
            continue
        tree = ast.parse(re.sub(r"^\s*[%!].*", "", source, flags=re.M))
        imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
        others = any(not isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
        assert not (imports and others), f"cell {number} mixes imports with other code:\n{source}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_page_is_in_the_sidebar(notebook: Path) -> None:
    page = notebook.relative_to(ROOT / "nbs").as_posix()
    assert page in sidebar_pages(), f"add {page} to nbs/sidebar.yml"


def test_sidebar_is_in_book_order() -> None:
    numbers = [page.split("_")[0] for page in sidebar_pages() if re.match(r"\d", page)]
    assert numbers == sorted(numbers)


def sidebar_pages() -> list[str]:
    """Every page in nbs/sidebar.yml, in its order."""
    entries = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    pages: list[str] = []
    for entry in entries:
        inside = entry if isinstance(entry, str) else entry["contents"]
        pages += [inside] if isinstance(inside, str) else inside
    return pages


def gaps(module: Path) -> list[str]:
    """Public functions, classes and methods of a module without a docstring or a type hint."""
    found: list[str] = []

    def check(node: ast.AST, prefix: str = "") -> None:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        if node.name.startswith("_") and node.name not in ("__init__", "__call__"):
            return
        name = f"{prefix}{node.name}"
        if not node.name.startswith("__") and not ast.get_docstring(node):
            found.append(f"{name}: no docstring")
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                check(child, f"{name}.")
            return
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [a.arg for a in arguments if a and not a.annotation and a.arg not in ("self", "cls")]
        found.extend(f"{name}: no type for {argument}" for argument in bare)
        if node.returns is None and node.name != "__init__":
            found.append(f"{name}: no return type")

    for node in ast.parse(module.read_text()).body:
        check(node)
    return found


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_public_names_are_documented_and_typed(module: Path) -> None:
    assert gaps(module) == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, *MODULES, INIT], ids=name_of)
def test_no_path_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":  # what a reader sees: sources and text, not the letters that encode a picture
        outputs = [out for cell in cells(path) for out in cell.get("outputs", [])]
        shown = [part for out in outputs for kind, part in out.get("data", {}).items() if not kind.startswith("image")]
        text = json.dumps([[cell["source"] for cell in cells(path)], [out.get("text") for out in outputs], shown])
    assert not re.search(r"(?<![\w.])/work\b|\.\./shared", text)


def test_modules_notebooks_and_readme_are_in_step(tree: Path) -> None:
    def contents() -> dict[str, bytes]:
        files = [tree / "README.md", *(tree / "nbs").rglob("*.ipynb"), *(tree / "crossrec").rglob("*.py")]
        return {str(file.relative_to(tree)): file.read_bytes() for file in files if file.exists()}

    before = contents()
    programs = Path(sys.executable).parent
    for command in ([programs / "nbdev_export"], [programs / "nbdev_clean"], [sys.executable, "tools/readme.py"]):
        subprocess.run(command, cwd=tree, check=True)
    after = contents()
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    assert changed == [], "run `make export` and `make docs`, and commit what they change"
