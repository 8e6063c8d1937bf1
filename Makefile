# setup, picture, test, check: everything from a fresh clone with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# Debian packages that tests want: the emoji font and the names of emoji that scenes are drawn from, and a browser.
DEBIAN := fonts-noto-color-emoji unicode-cldr-core chromium

PROMPT ?= a red apple on a blue background
SEED ?= 7
# As they were typed: make would take $ and what follows for a variable of its own.
override export PROMPT := $(value PROMPT)
override export SEED := $(value SEED)

.DEFAULT_GOAL := help
.PHONY: help setup picture test check debian

help:
	@echo 'make picture PROMPT="a red apple on a blue background" [SEED=7]   paint one picture and print its path'
	@echo 'make setup   everything for development, in $(VENV)'
	@echo 'make test    the tests'
	@echo 'make check   style, types and layers'

# Each stamp is written last, so that an interrupted setup starts again and a finished one is free.
setup: $(VENV)/.development

$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo 'setting up $(VENV), once ...' >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo 'adding what tests and checks need ...' >&2
	@$(PIP) --editable '.[dev]'
	@touch $@

# The words reach the program through the environment: quotes in them are safe.
picture: $(VENV)/.runtime
	@$(BIN)/maquette txt2img "$$PROMPT" --seed "$$SEED"

test: $(VENV)/.development debian
	$(BIN)/python -m pytest

debian:
	@missing=; \
	for name in $(DEBIAN); do \
	  dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$name"; \
	done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq; wanted=$$missing; missing=; \
	  for name in $$wanted; do \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$name >/dev/null \
	      || missing="$$missing $$name"; \
	  done; \
	fi; \
	if [ -n "$$missing" ]; then echo "WARNING: tests that need$$missing will be SKIPPED" >&2; fi

check: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_import.py
