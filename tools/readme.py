"""Write README.md from nbs/index.ipynb: `python tools/readme.py` (what nbdev_readme does, without Quarto)."""

import base64
import re
import shutil
from pathlib import Path

import yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults

FIGURES = "README_files"


def outputs_of(cell, root: Path, number: int) -> list[str]:
    """A cell's outputs as Markdown: Markdown as it is, pictures as files, everything else indented as code."""
    parts = []
    for position, output in enumerate(cell.get("outputs", [])):
        data = output.get("data", {})
        if "text/markdown" in data:
            parts.append("".join(data["text/markdown"]))
        elif "image/png" in data:
            picture = root / FIGURES / f"cell-{number}-{position}.png"
            picture.parent.mkdir(exist_ok=True)
            picture.write_bytes(base64.b64decode("".join(data["image/png"])))
            parts.append(f"![]({FIGURES}/{picture.name})")
        elif output.get("text") or "text/plain" in data:
            text = "".join(output.get("text") or data["text/plain"]).rstrip()
            parts.append("\n".join(f"    {line}".rstrip() for line in text.split("\n")))
    return parts


def part(cell, root: Path, number: int) -> list[str]:
    """The Markdown of one processed cell."""
    source = "".join(cell.source).strip()
    if cell.cell_type == "raw":  # the front matter that nbdev made of the title cell
        front = yaml.safe_load(source.strip("-\n"))
        return [f"# {front['title']}", front["description"]]
    if cell.cell_type == "markdown":
        if source.startswith("<!-- WARNING"):
            return []
        return [re.sub(r"\]\((?!https?:)([\w/]+\.ipynb)", r"](nbs/\1", source)]
    options = dict(re.findall(r"^#\| *([\w-]+): *(\S+)", source, re.M))
    code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
    shown = [] if options.get("echo") == "false" or not code else [f"``` python\n{code}\n```"]
    return shown + ([] if options.get("output") == "false" else outputs_of(cell, root, number))


def main() -> None:
    """Process the index notebook as the site does, and write it as Markdown."""
    config = get_config()
    root = Path(config.config_path)
    notebook = read_nb(config.nbs_path / "index.ipynb")
    FilterDefaults()(notebook)
    shutil.rmtree(root / FIGURES, ignore_errors=True)
    parts = [text for number, cell in enumerate(notebook.cells) for text in part(cell, root, number)]
    (root / "README.md").write_text("\n\n".join(text for text in parts if text) + "\n")


if __name__ == "__main__":
    main()
