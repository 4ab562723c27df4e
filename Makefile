# Every command of the project. `make` alone lists them. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# torch for NVIDIA cards is several gigabytes: install the CPU build where there is no such card.
CONSTRAINTS := $(shell nvidia-smi >/dev/null 2>&1 || echo "-c constraints-cpu.txt")
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(CONSTRAINTS)

.PHONY: help demo test lint docs export execute clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## install, then run the main job on packaged data; the report is in report/
	$(BIN)/crossrec run $(ARGS)

test: $(VENV)/.installed-dev  ## install, then run the tests, notebooks included (ARGS="-k attention" for some)
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev  ## check the style of the code
	$(BIN)/ruff check .

docs: $(VENV)/.installed-dev  ## build the site into _docs/ and README.md from the notebooks
	$(BIN)/python tools/build_docs.py
	$(BIN)/python tools/readme.py

export: $(VENV)/.installed-dev  ## write crossrec/*.py from the notebooks, and clean the notebooks
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

execute: $(VENV)/.installed-dev  ## run notebooks and save their outputs (NB="nbs/05_attention.ipynb" for some)
	$(BIN)/python tools/execute_nbs.py $(NB)

clean:  ## delete what was built, and keep the environment
	rm -rf _docs _proc report build dist *.egg-info .pytest_cache .hypothesis .ruff_cache

# What is installed is written down in settings.ini; install again only when that changes.
$(VENV)/.installed-demo: settings.ini setup.py constraints-cpu.txt | $(BIN)/python
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: settings.ini setup.py constraints-cpu.txt | $(BIN)/python
	$(INSTALL) -e '.[demo,dev]'
	@touch $@ $(VENV)/.installed-demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "found Python " + sys.version.split()[0] + "; expected 3.10 or newer. Run: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
