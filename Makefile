# foldase: everything a person types. `make demo` and `make test` need Python and pip, nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FRONTEND := $(shell find web/frontend -path '*/node_modules' -prune -o -type f -print 2>/dev/null)
ROOM ?=

.PHONY: install demo test verify lint bench clean

install: $(VENV)/.installed web/foldase_web/static/index.html

$(VENV)/.installed: pyproject.toml constraints.txt web/hatch_build.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

web/foldase_web/static/index.html: $(FRONTEND) | $(VENV)/.installed
	$(BIN)/python web/hatch_build.py
	touch $@

demo: install
	$(BIN)/foldase demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house

test: install
	$(BIN)/python -m pytest -q -m "not verify"

# The long checks: all of them, or one room's, for example `make verify ROOM=scheduler`.
verify: install
	$(BIN)/python -m pytest -v -m verify $(if $(ROOM),tests/$(ROOM))

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .foldase .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	rm -rf web/foldase_web/static web/frontend/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
