# make demo, make test, make test-all: each does everything it needs, from a clone.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
TESTS = $(VENV)/bin/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all lint check format clean

demo: $(INSTALLED)
	$(VENV)/bin/lpft demo --output-dir demo-report --overwrite

test: $(INSTALLED)
	$(TESTS) -m "not heavy"

test-all: $(INSTALLED)
	$(TESTS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

check: lint test-all

format: $(INSTALLED)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) demo-report

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lpft needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[demo,dev]'
	touch $@
