# make demo, make test, make test-all, make bench, make site: each does everything it needs, from a clone.
PYTHON ?= python3
PIP_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
TESTS = $(VENV)/bin/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all bench bench-quick site lint check format clean

demo: $(INSTALLED)
	$(VENV)/bin/lpft demo --output-dir demo-report --overwrite

test: $(INSTALLED)
	$(TESTS) -m "not heavy"

test-all: $(INSTALLED)
	$(TESTS)

# An hour on two cores; bench-quick, or BENCH_ARGS=--quick, takes ten minutes. benchmarks/run_all.py has the options.
bench: $(INSTALLED)
	$(VENV)/bin/python benchmarks/run_all.py $(BENCH_ARGS)

bench-quick: $(INSTALLED)
	$(VENV)/bin/python benchmarks/run_all.py --quick $(BENCH_ARGS)

# The documentation, in site/index.html; a warning, a wrong link or a wrong anchor is an error.
site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

check: lint test-all

format: $(INSTALLED)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) demo-report bench-report site

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lpft needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[demo,dev]'
	touch $@
