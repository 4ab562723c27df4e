"""Run notebooks from a fresh start and save their outputs: `python tools/execute_nbs.py [nbs/05_attention.ipynb ...]`.

Without arguments every notebook is run. Cells marked `#| eval: false` or with a flag of `tst_flags` in settings.ini
are skipped and keep their saved outputs, so that results recorded elsewhere, on a GPU for instance, stay.
`--recorded` runs the `eval: false` cells too, to record such results anew.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
os.environ["CROSSREC_PROGRESS"] = "0"  # a bar that was drawn is no result, and no two runs draw the same

from execnb.nbio import read_nb, write_nb  # noqa: E402
from execnb.shell import CaptureShell  # noqa: E402
from fastcore.foundation import working_directory  # noqa: E402
from nbdev.clean import clean_nb  # noqa: E402
from nbdev.config import get_config  # noqa: E402
from nbdev.doclinks import nbglob  # noqa: E402
from nbdev.process import extract_directives  # noqa: E402


def fresh_start() -> None:
    """Notebooks share this process: none may feel the random numbers or the plot settings of the one before."""
    import matplotlib
    import matplotlib.pyplot as plt

    from crossrec.core import seed_everything

    plt.close("all")
    matplotlib.rcdefaults()
    matplotlib.use(os.environ["MPLBACKEND"])
    seed_everything(0)


def is_skipped(cell, flags: set[str], recorded: bool) -> bool:
    """Whether a cell is left as it is: prose, `eval: false` unless recorded, a flagged cell, the export at the end."""
    if cell.cell_type != "code" or "nbdev_export(" in cell.source:
        return True
    directives = extract_directives(cell, remove=False)
    shown_only = not recorded and directives.get("eval:", [""])[0].lower() == "false"
    return shown_only or bool(flags & directives.keys())


def execute(notebook: Path, flags: set[str], recorded: bool = False) -> bool:
    """Run one notebook and save it; after an error the file stays as it was."""

    def skip(cell) -> bool:
        skipped = is_skipped(cell, flags, recorded)
        if not skipped:
            cell.outputs = []  # a cell that prints nothing any more must not keep what it printed once
        return skipped

    fresh_start()
    content, start = read_nb(notebook), time.time()
    shell = CaptureShell(notebook, mpl_format="png")
    try:
        with working_directory(notebook.parent):
            shell.run_all(content, exc_stop=True, preproc=skip)
    except Exception:
        print(shell.prettytb(fname=notebook), file=sys.stderr)
        print(f"FAIL {notebook.name}", flush=True)
        return False
    clean_nb(content)
    write_nb(content, notebook)
    print(f"ok   {notebook.name} {time.time() - start:.1f} s", flush=True)
    return True


def main() -> int:
    """Run the notebooks named on the command line, or all; exit code 1 if any failed."""
    config = get_config()
    flags = set(config.tst_flags.split())
    recorded = "--recorded" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--recorded"]
    notebooks = [Path(name).absolute() for name in names] or [Path(path) for path in nbglob()]
    return 0 if all([execute(notebook, flags, recorded) for notebook in notebooks]) else 1


if __name__ == "__main__":
    sys.exit(main())
