# Everything from a fresh clone. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup train test test-devices check

VENV := .venv
BIN := $(VENV)/bin
SETUP_DONE := $(VENV)/.setup-done
GL_DONE := $(VENV)/.gl-done
KERNELS_DONE := $(VENV)/.kernels-done
KERNELS := $(shell grep -rl --include=*.py "numba import" robot_rl drivers)
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13))
WORKERS ?= 2
TASK ?= pick_cube

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 21

setup: $(SETUP_DONE) $(GL_DONE) $(KERNELS_DONE) ## virtual environment, dependencies, OpenGL (nothing to do the second time)

# numba's cache does not see that a compiled function called by another has changed; compile anew when any source has.
$(KERNELS_DONE): $(KERNELS) | $(SETUP_DONE)
	@find robot_rl drivers -name '*.nb[ic]' -delete
	@touch $@

train: setup ## learn pick_cube on the twin, evaluate it, say where video and curve are (TASK=..., ARGS="...")
	@$(BIN)/robot-rl train $(TASK) $(ARGS)

test: setup ## the whole test suite on two workers (WORKERS=..., ARGS="...")
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-devices: setup ## SpaceMouse and gamepad on a real kernel, in a QEMU guest: a minute (ARGS="...")
	@tests/devices/guest.sh $(BIN)/python $(ARGS)

check: setup ## formatting, lint and types
	@echo "== ruff format" && $(BIN)/ruff format --check .
	@echo "== ruff check" && $(BIN)/ruff check .
	@echo "== pyright" && $(BIN)/pyright

$(SETUP_DONE): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer found. Install python3.11 and python3.11-venv, or: make PYTHON=/path/to/python3"; exit 2; }
	@[ -x $(BIN)/python ] || { echo "== setup: virtual environment $(VENV) from $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "== setup: installing robot-rl and its dependencies (minutes and a few GB the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

$(GL_DONE): | $(SETUP_DONE)
	@scripts/setup_gl.sh $(BIN)/python $@
