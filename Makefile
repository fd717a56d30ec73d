# Each target stands alone: the virtual environment is made on first use and again when
# pyproject.toml changes.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
OUTPUT ?= demo-output
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test lint check bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 10

demo: .venv/ready  ## refine held-out satellite blocks with the bundled weights
	$(BIN)/crispmask demo --output $(OUTPUT)

test: .venv/ready-dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

lint: .venv/ready-dev  ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

check:  ## what CI runs: lint, then the tests
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test

bench: .venv/ready-dev  ## speed ratios, written to benchmarks/results/
	$(BIN)/python benchmarks/speed.py

clean:  ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch goes first, in the version that is offered as a CPU build: nothing later replaces it.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(PIP) install "$(TORCH)" || $(PIP) install torch
	touch $@

.venv/ready: .venv/torch pyproject.toml
	$(PIP) install --editable .
	touch $@

.venv/ready-dev: .venv/torch pyproject.toml
	$(PIP) install --editable '.[dev]'
	touch .venv/ready $@
