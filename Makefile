# make run    install into .venv and run the main job: Diff-SCM against DeepSCM on strokes, about ten minutes
# make test   install with the development extra; lint, types, tests, two files of them at a time (WORKERS=2)
# make docs   the pages of docs/, the reference and the published tables as a site, in build/docs; a dead link fails
# make test-portable         the numeric tests under each limit of the instruction set, with one and two threads
# make test-portable-quick   the two lowest limits, methods only: about three minutes on two cores
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2

.PHONY: run test docs test-portable test-portable-quick check clean

run: $(VENV)/.run
	$(BIN)/cfbench run

test: $(VENV)/.dev check
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m 'not slow and not serial'
	$(BIN)/python -m pytest -m 'serial and not slow'

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test-portable: $(VENV)/.dev
	$(BIN)/python tests/portable.py

test-portable-quick: $(VENV)/.dev
	$(BIN)/python tests/portable.py --quick

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "cfbench needs Python 3.11 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.run $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
