# make train: set up, then train on the embedded default data. make test: the whole suite.
PYTHON ?= python3
VENV ?= .venv
VENV_NEXT ?= .venv-next
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help train test test-full test-next audit docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

train: $(VENV)/.installed ## set up, then train the default experiment
	$(BIN)/python train.py

test: $(VENV)/.installed-dev ## set up, then lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

test-full: $(VENV)/.installed-dev ## the long forms of the reliability tests
	$(BIN)/python -m pytest -m full -n auto --dist worksteal

test-next: $(VENV_NEXT)/.installed ## the whole test suite on the next Hydra, OmegaConf and Optuna
	$(VENV_NEXT)/bin/python -m pytest -n auto --dist worksteal

audit: $(VENV)/.installed ## known advisories on the pinned versions; needs pypi.org itself
	$(INSTALL) pip-audit
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement constraints.txt

# The theme's notice that there will be no MkDocs 2 for it, at every build, is not about these pages.
docs: $(VENV)/.installed-docs ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove the virtual environments (runs stay)
	rm -rf $(VENV) $(VENV_NEXT)

$(VENV)/bin/python $(VENV_NEXT)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable '.[docs]'
	@touch $@ $(VENV)/.installed

# The whole list, not pyproject.toml's, which keeps to the stable lines of Hydra and Optuna.
$(VENV_NEXT)/.installed: pyproject.toml constraints-next.txt | $(VENV_NEXT)/bin/python
	$(VENV_NEXT)/bin/python -m pip install --quiet --pre --constraint constraints-next.txt torch
	$(VENV_NEXT)/bin/python -m pip install --quiet --pre --requirement constraints-next.txt
	$(VENV_NEXT)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@
