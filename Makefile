# `make demo` and `make test` need Python 3.11 or newer, git and make; everything else goes into .venv.
# Every pip call is under constraints/ci.txt, so that no CUDA build is fetched where a CPU build of torch is to be had.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -q -c constraints/ci.txt
PROJECTS := pyproject.toml constraints/ci.txt models/emoji/pyproject.toml
OUT ?= out/demo
# apt-get that waits for nobody: at most as many seconds as the first argument says.
APT = DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 $(1) apt-get -qq -o Acquire::Retries=1 \
	-o Acquire::http::Timeout=15 -o DPkg::Lock::Timeout=30
PYTEST_ARGS ?= -q -n auto --dist loadfile

.PHONY: help demo test test-slow setup lint docs audit format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: $(VENV)/.core  ## set up what is missing, then run all four flows on the shipped model
	$(BIN)/versatile demo --out $(OUT)

test: $(VENV)/.dev  ## set up what is missing, then run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## the slow campaigns: fuzzing, kills, browsers, cases met elsewhere
	$(BIN)/python -m pytest -m campaign $(PYTEST_ARGS)

setup: $(VENV)/.dev  ## everything for working on the code

lint: $(VENV)/.dev  ## the same checks as pre-commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the documentation site, in build/site; broken links fail
	$(BIN)/python scripts/build_site.py

audit:  ## known weaknesses of the code and of what it needs, where an index answers
	@scripts/audit.sh $(VENV)/audit

format: $(VENV)/.dev  ## let ruff put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## time beside diffusers with the same weights, and cold start; writes out/speed.json
	$(BIN)/python benchmarks/speed.py --json out/speed.json --page docs/performance.md
	$(BIN)/python benchmarks/cold_start.py

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

# torch comes first and alone, so that a broken download is cheap and its message readable. In order: a CPU wheel that
# pip already knows of, PyTorch's CPU wheels (Linux without an NVIDIA driver), then whatever the index has.
$(VENV)/.torch: constraints/ci.txt
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version); this takes a few minutes the first time"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --no-index --no-deps torch 2>/dev/null || { [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
		&& $(INSTALL) --no-deps --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null; } || true
	$(INSTALL) torch
	@touch $@

$(VENV)/.core: $(VENV)/.torch $(PROJECTS)
	$(INSTALL) -e . -e ./models/emoji
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(INSTALL) -e ".[docs]"
	@touch $@

# The browser tests of the studio need chromium, those of the speech set espeak-ng; where they cannot be installed these
# tests are skipped and say so.
$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) -e ".[all,cluster,dev]" -e ./models/emoji $(patsubst %/pyproject.toml,-e ./%,$(wildcard models/emoji-speech/pyproject.toml))
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& $(call APT,60) update && $(call APT,240) install -y --no-install-recommends chromium; } </dev/null >/dev/null 2>&1 \
		|| echo "no chromium here, and it cannot be installed: the studio's browser tests will be skipped"
	@command -v espeak-ng >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& $(call APT,60) update && $(call APT,240) install -y --no-install-recommends espeak-ng; } </dev/null >/dev/null 2>&1 \
		|| echo "no espeak-ng here, and it cannot be installed: the tests of the speech set will be skipped"
	@touch $@
