# ssgear. Every target sets itself up in .venv on its first call; later calls install nothing and need no network.
#
#   PYTHON       interpreter that .venv is made from (3.11 or newer)
#   CONSTRAINTS  list of tested versions; empty takes the newest that pyproject.toml allows. Give it in every call,
#                or export it.
#   ARGS         more arguments for the command behind the target: make train ARGS="--preset quick --seed 1"
#   JOBS         processes that share the tests; 0 runs them in one, as a debugger wants it

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
ARGS ?=
JOBS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --no-input --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
FAILED = { echo "make: installing $(1) failed for the reason above; the first installation needs a network," \
	"and the same command tries again" >&2; exit 1; }
# pip writes a package's RECORD last: one without it was interrupted, and is to be installed again
FORGET_HALVES = for folder in $(VENV)/lib/python3*/site-packages/*.dist-info; do \
	test ! -d "$$folder" || test -f "$$folder/RECORD" || rm -rf "$$folder"; done

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help train test test-slow lint types bench clean distclean

# a .venv whose interpreter is gone (moved, upgraded) is set up again
ifneq ($(wildcard $(VENV)),)
$(shell test -x $(PY) || rm -f $(VENV)/.python $(VENV)/.core $(VENV)/.bench $(VENV)/.dev)
endif

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

train: $(VENV)/.core ## pretrain on the embedded images (or as ARGS says) and print the path of the report
	@$(PY) -m ssgear.train $(ARGS)

test: lint types ## lint, types, and all tests but the slow ones (ARGS goes to pytest)
	@$(PY) -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev ## the long repetitions that `make test` does a few times only
	@$(PY) -m pytest -m slow -n $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.dev ## ruff: rules and format
	@$(PY) -m ruff check --output-format concise . && $(PY) -m ruff format --check . \
		|| { echo "make: mend what ruff names above; $(PY) -m ruff format . formats" >&2; exit 1; }

types: $(VENV)/.dev ## mypy --strict over ssgear/
	@$(PY) -m mypy --strict ssgear

bench: $(VENV)/.bench ## check and time the kernels (ARGS goes to the benchmark)
	@$(PY) -m benchmarks kernels $(ARGS)

clean: ## remove caches and build output
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find ssgear tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv and the built library too; runs/ stays
	@rm -rf $(VENV) ssgear/_native-torch-*.so

$(VENV)/.python:
	@command -v "$(PYTHON)" >/dev/null \
		|| { echo "make: $(PYTHON) is not there; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $$("$(PYTHON)" --version 2>&1) is too old; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' \
		|| { echo "make: $(PYTHON) cannot make virtual environments; install its venv module (python3-venv)" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml setup.py $(wildcard csrc/*) $(wildcard $(CONSTRAINTS))
	@$(FORGET_HALVES)
	@echo "Setting up $(VENV), 1 of 2: torch (a few GB, once)"
	@$(INSTALL) torch torchvision setuptools wheel || $(call FAILED,torch)
	@echo "Setting up $(VENV), 2 of 2: ssgear and what it needs"
	@$(INSTALL) --no-build-isolation --editable . || $(call FAILED,ssgear)
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	@$(FORGET_HALVES)
	@echo "Setting up $(VENV): what the benchmarks compare with"
	@$(INSTALL) --no-build-isolation --editable '.[bench]' || $(call FAILED,the benchmarks' peers)
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@$(FORGET_HALVES)
	@echo "Setting up $(VENV): test tools and every optional package that runs without a GPU"
	@$(INSTALL) --no-build-isolation --editable '.[dev]' || $(call FAILED,the test tools)
	@touch $@
