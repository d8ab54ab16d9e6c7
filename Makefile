# Targets in the order of the work; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
EXPERIMENT ?= experiments/quickstart.yaml
INVENTORY ?= inventory/local.yaml
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

# Under make, and only there, the lab may install what a link needs and this machine lacks.
export TESTBED_MAY_INSTALL := 1

.DEFAULT_GOAL := help
.PHONY: help setup check experiment report test lint bottlenecks paper-grid matrix matrix-quick outage netem fleet fleet-two-links bench bench-link clean

help:  ## list the targets, in the order of the work
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo "  settings: EXPERIMENT=$(EXPERIMENT) INVENTORY=$(INVENTORY) PIP_ARGS=  PYTHON=$(PYTHON)"

setup: $(VENV)/.installed $(VENV)/.sshd  ## make .venv, install the pinned dependencies, see to sshd

check: setup  ## read both files and show the plan, touching nothing
	$(BIN)/testbed plan $(EXPERIMENT) -i $(INVENTORY)

experiment: setup  ## run EXPERIMENT on INVENTORY and write its report
	$(BIN)/testbed run $(EXPERIMENT) -i $(INVENTORY)

report: setup  ## write the report of the newest campaign again
	$(BIN)/testbed report

test: setup  ## all tests (as root the lab tests too)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bottlenecks: setup  ## compare the split points of many networks on one page
	$(BIN)/testbed bottlenecks --list experiments/bottlenecks.yaml --page results/bottlenecks.html

paper-grid: setup  ## the paper's sweep, coarse: predicted over the grid, measured in some cells
	$(BIN)/testbed sweep experiments/paper-grid.yaml -i $(INVENTORY)

matrix: setup  ## dynamic against every static choice and the clairvoyant one, 45 minutes (TRACE=FILE: a link of yours)
	$(BIN)/testbed run experiments/dynamic-vs-static.yaml -i $(INVENTORY) $(if $(TRACE),--trace recorded=$(TRACE))

matrix-quick: setup  ## the same in six minutes
	$(BIN)/testbed run experiments/dynamic-vs-static-quick.yaml -i $(INVENTORY)

outage: setup  ## what becomes of the queries when the link is gone
	$(BIN)/testbed run experiments/outage.yaml -i $(INVENTORY)

netem: setup  ## a link with delay, jitter and loss, by user-mode Linux where this kernel has no netem
	$(BIN)/testbed run experiments/netem.yaml -i $(INVENTORY)

fleet: setup  ## four devices on one link and one server
	$(BIN)/testbed run experiments/fleet.yaml -i inventory/fleet.yaml

fleet-two-links: setup  ## the same behind two routers, one link good and one poor
	$(BIN)/testbed run experiments/fleet-two-links.yaml -i inventory/fleet-two-links.yaml

bench: setup  ## time the wire, the decision, encodings, splitting, reports and memory; writes bench*.json
	$(BIN)/python -m tests.bench.wire
	$(BIN)/python -m tests.bench.encode
	$(BIN)/python -m tests.bench.split
	$(BIN)/python -m tests.bench.decide
	$(BIN)/python -m tests.bench.report
	$(BIN)/python -m tests.bench.memory

bench-link: setup  ## replay a trace under greedy UDP seven times: what the link carried, how late
	$(BIN)/python -m tests.bench.fidelity

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info bench.json bench-encode.json bench-split.json bench-report.json bench-memory.json bench-fidelity.json bench-fidelity.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything is pinned to one version; PIP_ARGS can name an index with another build of torch.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed here (hosts: 3.10); set PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "setup: Python's venv module is missing; run: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The virtual lab runs its own sshd; the package's service is kept from starting while apt installs it.
$(VENV)/.sshd: | $(VENV)/.installed
	@if command -v sshd >/dev/null || test -x /usr/sbin/sshd; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "setup: installing openssh-server for the virtual lab (no service is started)"; \
	  policy=/usr/sbin/policy-rc.d; made=; \
	  if ! [ -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' > $$policy && chmod 755 $$policy && made=1; fi; \
	  trap '[ -z "$$made" ] || rm -f '$$policy EXIT; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server >/dev/null; \
	else echo "setup: sshd is missing and the virtual lab needs it; install it (Debian: sudo apt-get install openssh-server)" >&2; exit 0; fi
	@if command -v sshd >/dev/null || test -x /usr/sbin/sshd; then touch $@; fi
