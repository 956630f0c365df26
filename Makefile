# The developers' commands; CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export MLFLOW_DISABLE_TELEMETRY = true
# MLflow and Optuna must find the venv's own tools whatever the caller's shell has active.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo ui test proofs nightly check format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv from requirements.lock and install the project into it

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one: make install PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --group demo-data
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install ## real data -> study -> promoted training -> enhanced volume (at most 15 minutes)
	@$(BIN)/python -m workbench.demo

ui: install ## the MLflow user interface on 127.0.0.1
	@$(BIN)/cyclegan ui

test: install ## the tests, on two cores (minutes)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

proofs: install ## the slow ones: real processes killed, whole studies, PostgreSQL, a browser
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

nightly: install ## the longest ones, hours: every command killed at up to 60 moments
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m nightly

check: install ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## mend formatting and what lint can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# torch's local version label (+cpu) is a property of the machine that made the lock, so it is cut.
lock: install ## make requirements.lock anew from pyproject.toml
	$(BIN)/pip-compile --quiet --extra dev --strip-extras --allow-unsafe --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --annotation-style=line \
	  --output-file requirements.lock pyproject.toml
	sed -i.bak -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' requirements.lock && rm requirements.lock.bak

clean: ## remove what tools left; data, results and runs stay
	rm -rf build .pytest_cache .ruff_cache .mypy_cache *.egg-info
