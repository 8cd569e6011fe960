# From a fresh clone: python3 with venv, make and git are all that must be there. Everything else goes into .venv.
#   make install      .venv with the project and all that it needs, and nothing run: for the login node of a cluster
#   make sweep        the question of sweeps/quantity.yaml, from nothing to a report     (SPEC=... for another one)
#   make quickstart   the same in small
#   make photos       the question on photographs: downloads Tiny-ImageNet and CIFAR-100 into DATA (./data) once their
#                     licences are accepted (YES=1: accepted beforehand), runs sweeps/photos/quantity.yaml;
#                     what lies in DATA already, without a download of ours, is used as it is
#   make test         lint, types and every test but those of a cluster and of the installed wheel
#   make wheel        dist/ray_robust-*.whl, for pip install away from the checkout
#   make wheel-test   the wheel in an empty environment with all that it needs: gigabytes, minutes
#   make cluster      ray up, a job and Prometheus on this machine, as root; what is missing for it is said
#   make slurm        cluster/slurm.sbatch on a cluster of Slurm with two nodes on this machine, as root; likewise
#   make audit        known vulnerabilities of what is installed; RELEASE=1 fails where the index cannot be asked
#   make docs         the documentation site in site/, with the reports that are in runs/; needs no network to be read
#   make lock         requirements.lock anew: the newest releases that the bounds allow, with their hashes
#   LOCKED=1 make ... to install exactly the tested releases, each file checked against its hash
#   PYTHON=python3.12 make ...   to build .venv with another Python (3.11 or newer)

PYTHON ?= python3
SPEC   ?= sweeps/quantity.yaml
DATA   ?= data
VENV   := .venv
SITE   ?= site
RUNS   ?= runs
BIN    := $(VENV)/bin
FAST   := not (ray or slow or data or gpu or cluster or wheel)
QUICKLY = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
REPORT  = runs/$(basename $(notdir $(SPEC)))/report/index.html

.DEFAULT_GOAL := help
.PHONY: help install sweep quickstart photos test wheel wheel-test cluster slurm audit docs lock lint fast clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(VENV)/.project

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

photos: $(VENV)/.project
	@for name in tiny-imagenet:tiny-imagenet-200 cifar-100:cifar-100-binary; do \
	  [ -d "$(DATA)/$${name#*:}" ] && [ ! -d "$(DATA)/downloads" ] && continue; \
	  $(BIN)/python -m ray_robust.ingest $${name%:*} --download --root "$(DATA)" $(if $(YES),--yes) || exit; \
	done
	@DATA=$(abspath $(DATA)) $(BIN)/python -m ray_robust.sweep sweeps/photos/quantity.yaml --out runs/photos/quantity
	@echo "Open $(CURDIR)/runs/photos/quantity/report/index.html in a browser; it needs no network."

# The quick tests first, so that what is plainly broken is said within a minute. Of those that start Ray two at a time:
# each waits for processes to start and end, a third of its time.
test: lint fast
	$(QUICKLY) -m "not ($(FAST)) and not (ray or cluster or wheel)"
	$(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile -m "ray and not (cluster or wheel)" \
	  $$(grep -l "mark\.ray\b" tests/test_*.py)

wheel: $(VENV)/.dev
	$(BIN)/python -m build --outdir dist

wheel-test: $(VENV)/.dev
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py

cluster: $(VENV)/.dev
	$(BIN)/python -m pytest -m cluster tests/test_*_live.py

slurm: $(VENV)/.dev
	$(BIN)/python -m pytest -s tests/test_slurm_live.py

audit: $(VENV)/.dev
	@$(BIN)/python .ci/audit.py $(if $(RELEASE),--release)

# mkdocs lives in an environment of its own: it reads the code as text and needs nothing that the project does.
docs: $(VENV)-docs/.made
	@NO_MKDOCS_2_WARNING=1 RUNS="$(abspath $(RUNS))" $(VENV)-docs/bin/mkdocs build --clean --site-dir "$(abspath $(SITE))"
	@echo "Open $(abspath $(SITE))/index.html in a browser; it needs no network."

# uv lives in an environment of its own: nothing of the project's is touched, and no setting of the machine's is written.
lock:
	@test -x $(VENV)-lock/bin/uv || { $(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install -q 'uv>=0.9'; }
	$(VENV)-lock/bin/uv pip compile requirements.txt --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -o requirements.lock

fast: $(VENV)/.dev
	$(QUICKLY) -m "$(FAST)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV)-docs site .pytest_cache .ruff_cache .mypy_cache *.egg-info

# --- the environment: made once, and again when what it is made of changes

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)-docs/.made: requirements-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

# Hashes are checked of the packages alone: the checkout itself has none, and is installed without looking for others.
# pip compiles modules one after the other, a third of its time; all cores do it here. Templates of packages that are no
# Python are no error.
$(VENV)/.project: $(VENV)/.made requirements.txt requirements.lock pyproject.toml
	@echo "Installing into $(VENV): some minutes and several GB the first time, most of it PyTorch."
	@[ -t 1 ] && quiet= || quiet=--quiet; \
	  pip="$(BIN)/python -m pip install $$quiet --disable-pip-version-check --no-compile"; \
	  if [ -n "$(LOCKED)" ]; then $$pip --require-hashes -r requirements.lock && $$pip --no-deps -e .; \
	  else $$pip -r requirements.txt -e .; fi
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(VENV)/.dev: $(VENV)/.project requirements-dev.txt
	@[ -t 1 ] && quiet= || quiet=--quiet; \
	  $(BIN)/python -m pip install $$quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
