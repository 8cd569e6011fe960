# From a fresh clone: python3 with venv, make and git are all that must be there. Everything else goes into .venv.
#   make sweep        the question of sweeps/quantity.yaml, from nothing to a report     (SPEC=... for another one)
#   make quickstart   the same in small
#   make test         lint, types and every test but those of a cluster
#   make cluster      ray up, a job and Prometheus on this machine, as root; what is missing for it is said
#   make audit        known vulnerabilities of what is installed; says when the index cannot be reached
#   PYTHON=python3.12 make ...   to build .venv with another Python (3.11 or newer)

PYTHON ?= python3
SPEC   ?= sweeps/quantity.yaml
VENV   := .venv
BIN    := $(VENV)/bin
FAST   := not (ray or slow or data or gpu or cluster)
QUICKLY = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
REPORT  = runs/$(basename $(notdir $(SPEC)))/report/index.html

.DEFAULT_GOAL := help
.PHONY: help sweep quickstart test cluster audit lint fast clean

help:
	@sed -n 's/^#   //p' Makefile

sweep: $(VENV)/.project
	@$(BIN)/python -m ray_robust.sweep $(SPEC)
	@echo "Open $(CURDIR)/$(REPORT) in a browser; it needs no network."
	@[ ! -t 1 ] || for opener in xdg-open open; do \
	  command -v $$opener >/dev/null || continue; \
	  [ $$opener = open ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || continue; \
	  $$opener $(REPORT) >/dev/null 2>&1 || true; break; \
	done

quickstart: SPEC := sweeps/quickstart.yaml
quickstart: sweep

# The quick tests first, so that what is plainly broken is said within a minute.
test: lint fast
	$(QUICKLY) -m "not ($(FAST)) and not (ray or cluster)"
	$(BIN)/python -m pytest -m "ray and not cluster"

cluster: $(VENV)/.dev
	$(BIN)/python -m pytest -m cluster

audit: $(VENV)/.dev
	@$(BIN)/python .ci/audit.py

fast: $(VENV)/.dev
	$(QUICKLY) -m "$(FAST)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info

# --- the environment: made once, and again when what it is made of changes

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.project: $(VENV)/.made requirements.txt pyproject.toml
	@echo "Installing into $(VENV): some minutes and several GB the first time, most of it PyTorch."
	@[ -t 1 ] && quiet= || quiet=--quiet; \
	  $(BIN)/python -m pip install $$quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.project requirements-dev.txt
	@[ -t 1 ] && quiet= || quiet=--quiet; \
	  $(BIN)/python -m pip install $$quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
