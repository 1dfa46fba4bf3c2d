# foldase: everything a person types. `make demo` and `make test` need Python and pip, nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOM ?=

.PHONY: install demo test verify lint bench clean

# The page is rebuilt when its sources changed; the script knows, and says so at once when they did not.
install: $(VENV)/.installed
	@$(BIN)/python web/hatch_build.py

$(VENV)/.installed: pyproject.toml constraints.txt web/hatch_build.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/foldase demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not verify" tests/house

test: install
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup --no-loadscope-reorder --durations 30 -m "not verify"

# The long checks: all of them, or one room's, for example `make verify ROOM=scheduler`.
# They compile CUDA sources; where the system has no nvcc, it comes from PyPI's wheels.
verify: install
	@$(BIN)/python -c "from foldase_kernels.compiling.toolchain import find_nvcc; find_nvcc()" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cuda-build]'
	$(BIN)/python -m pytest -v -n 2 --dist loadgroup -m verify $(if $(ROOM),tests/$(ROOM))

bench: install
	$(BIN)/python benchmarks/scheduler.py
	$(BIN)/python benchmarks/kernels_cpu.py

clean:
	rm -rf $(VENV) .foldase .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	rm -rf web/foldase_web/static web/frontend/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
