"""Build the site into _docs/ from the notebooks: `python tools/build_docs.py`. Quarto is not needed.

nbdev processes the notebooks (documentation of exported functions, links between symbols), smalldocs renders the
pages and the API reference from the same `_quarto.yml` that Quarto reads, and what is left of the web is made local:
no page asks another host for anything. The KaTeX files come from the npm registry and are kept in .cache/katex.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nbdev.doclinks
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.layout import KATEX as KATEX_ADDRESS

SCRIPT_OR_STYLE = re.compile(r'<(?:script|link rel="stylesheet")[^>]*?(?:src|href)="(https?://[^"]+)')


def katex_folder(cache: Path) -> Path:
    """The KaTeX files that smalldocs' pages ask for, fetched once with npm."""
    version = re.search(r"katex@([\d.]+)", KATEX_ADDRESS)[1]
    folder = cache / "katex" / version
    if (folder / "katex.min.js").exists():
        return folder
    if not shutil.which("npm"):
        sys.exit("found no npm; expected it to fetch KaTeX, which draws the mathematics. Run: apt-get install npm")
    with tempfile.TemporaryDirectory() as work:
        fetch = ["npm", "pack", "--silent", f"katex@{version}"]
        if subprocess.run(fetch, cwd=work).returncode:
            sys.exit(f"{' '.join(fetch)} failed; expected katex {version}. Check the connection to the npm registry.")
        with tarfile.open(next(Path(work).glob("katex-*.tgz"))) as package:
            package.extractall(work)
        shutil.rmtree(folder, ignore_errors=True)
        unused = shutil.ignore_patterns("*.mjs", "*.ttf", "*.woff")
        shutil.copytree(Path(work) / "package" / "dist", folder, ignore=unused)
    return folder


def describe_pictures(cells: list[dict]) -> None:
    """Give each picture, for those who cannot see it, the titles that its cell draws, or the heading above it."""
    heading = ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ +(.+)", source, re.M) or [heading])[-1]
        titles = re.findall(r'title(?:=|\(|\([a-z]+, *)"([^"]+)"', source)
        words = html.escape("; ".join(titles) or heading)
        for data in (output["data"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})):
            png = "".join(data["image/png"]).strip()
            data["text/html"] = f'<img alt="{words}" src="data:image/png;base64,{png}" class="img-fluid">'


def with_sources(notebooks: Path, copy: Path) -> Path:
    """A copy of the notebooks whose exported functions show their source, folded, below their documentation.

    Chapters that mark a cell `#| exports` themselves show it unfolded. Pictures get words.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(notebooks, copy, ignore=shutil.ignore_patterns(".*"))
    for page in copy.rglob("*.ipynb"):
        content = json.loads(page.read_text())
        describe_pictures(content["cells"])
        for cell in content["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.search(r"^(async def|def|class) [^\W_]", source, re.M):
                cell["source"] = re.sub(r"^#\| *export *$", "#| exports\n#| code-fold: true", source, flags=re.M)
        page.write_text(json.dumps(content))
    return copy


def drop_numbers(processed: Path) -> dict[str, str]:
    """Rename pages as nbdev asks (05_attention.ipynb to attention.ipynb), which smalldocs does not do by itself."""
    renamed = {}
    for page in sorted(processed.rglob("*.ipynb")):
        content = json.loads(page.read_text())
        front = "".join(content["cells"][0]["source"])
        wanted = re.search(r"^output-file: *(\S+)\.html\n", front, re.M)
        if not wanted:
            continue
        content["cells"][0]["source"] = front.replace(wanted[0], "")
        page.write_text(json.dumps(content))
        if wanted[1] != page.stem:
            renamed[page.name] = f"{wanted[1]}.ipynb"
            page.rename(page.with_name(renamed[page.name]))
    return renamed


def mend_links(processed: Path, renamed: dict[str, str], site: str) -> None:
    """Point links at the renamed pages, and turn nbdev's links to the public address into relative ones."""
    for file in [f for pattern in ("*.ipynb", "*.qmd", "*.yml") for f in processed.rglob(pattern)]:
        text = file.read_text()
        for old, new in renamed.items():
            text = re.sub(rf"(?<!\w){re.escape(old)}", new, text)
        if file.suffix != ".yml":
            up = "../" * (len(file.relative_to(processed).parts) - 1)
            text = re.sub(rf"{re.escape(site)}(?=[\w/-]+\.html)", up, text)
        file.write_text(text)


def make_local(pages: Path, katex: Path) -> None:
    """Take KaTeX from the site itself, and drop the fonts that themes import from the web."""
    shutil.copytree(katex, pages / "site_libs" / "katex", dirs_exist_ok=True)
    for page in pages.rglob("*.html"):
        up = "../" * (len(page.relative_to(pages).parts) - 1)
        page.write_text(page.read_text().replace(KATEX_ADDRESS, f"{up}site_libs/katex"))
    for style in pages.rglob("*.css"):
        style.write_text(re.sub(r'@import\s+url\(["\']?https?://[^)]*\);?', "", style.read_text()))


def main() -> None:
    """Build the site; exit with a message if a page would still ask another host for a script or a style."""
    config = get_config()
    katex = katex_folder(config.config_path / ".cache")
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    notebooks = with_sources(config.nbs_path, config.config_path / "build" / "nbs")
    processed = Path(proc_nbs(notebooks, force=True, n_workers=0))
    mend_links(processed, drop_numbers(processed), f"{config.doc_host}{config.doc_baseurl}".rstrip("/") + "/")
    smalldocs = [sys.executable, "-m", "smalldocs.cli"]
    subprocess.run([*smalldocs, "api", "build", "--dir", processed], check=True)
    subprocess.run([*smalldocs, "render", processed], check=True)
    pages = processed / config.doc_path.name
    make_local(pages, katex)
    shutil.rmtree(config.doc_path, ignore_errors=True)
    shutil.copytree(pages, config.doc_path)
    asked = {f"{p.name}: {url}" for p in pages.rglob("*.html") for url in SCRIPT_OR_STYLE.findall(p.read_text())}
    if asked:
        sys.exit("pages that ask another host for a script or a style:\n" + "\n".join(sorted(asked)))
    print(f"{len(list(pages.rglob('*.html')))} pages in {config.doc_path}; open {config.doc_path / 'index.html'}")


if __name__ == "__main__":
    main()
