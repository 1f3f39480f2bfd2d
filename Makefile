# Everything a developer or a new user types. Each target installs what it needs, on Debian 12, as root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NODES ?= 1
ENGINE ?= debian12
NAME ?= default
PYTEST ?=
ADVISORIES ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
TESTBED := $(PYTHON) -m tests.testbed --name

help: ## This text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

up: requirements ## A sandbox to look at: one Docker host with two environments, reachable over HTTPS
	@$(PYTHON) -m examples.demo up

down: $(VENV)/.complete ## Remove the sandbox without a trace
	@$(PYTHON) -m examples.demo down

test: requirements ## All tests: units, real kernel, real Caddy, real Docker engines old and new
	$(PYTHON) -m tests $(PYTEST)

lint: $(VENV)/.complete ## Style, types and layering
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: requirements ## Measure one node, between nodes, among many, resolver and ingress; writes docs/benchmarks.md
	@tools/requirements.sh bench 1>&2
	$(PYTHON) -m tests.bench

chaos: requirements ## Faults one after another under traffic on three nodes; writes docs/resilience.md
	$(PYTHON) -m tests.chaos

testbed: requirements ## Docker hosts in namespaces, one cluster: NODES=n ENGINE=debian12|trixie|forky|legacy or one for each, with commas NAME=name
	@$(TESTBED) $(NAME) up --nodes $(NODES) --engine $(ENGINE)

testbed-down: $(VENV)/.complete ## Remove them without a trace: NAME=name
	@$(TESTBED) $(NAME) down

plugin: requirements ## Build build/plugin, which `docker plugin create` takes
	@$(PYTHON) -m tests.testbed images --plugin

install: requirements ## Install plugin and ingress on this machine's own engine: BASE_DOMAIN=example.org
	@$(PYTHON) -m tools.install install

uninstall: $(VENV)/.complete ## Remove them from this machine's own engine
	@$(PYTHON) -m tools.install uninstall

lock: $(VENV)/.complete ## Choose new versions of all dependencies
	$(VENV)/bin/pip-compile --quiet --upgrade --extra dev --extra cli --strip-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
	  --output-file requirements.lock pyproject.toml

sbom: $(VENV)/.complete ## What the lock file installs, as CycloneDX: build/sbom.json
	@$(PYTHON) -m tools.sbom build/sbom.json

audit: $(VENV)/.complete ## Known vulnerabilities of it, from files: ADVISORIES=a copy of PyPA's advisory database
	@$(PYTHON) -m tools.audit $(ADVISORIES)

requirements: $(VENV)/.complete
	@tools/requirements.sh 1>&2

# The checkout itself is put on the path, not installed: nothing is built, and nothing needs the network for it.
$(VENV)/.complete: requirements.lock
	@tools/requirements.sh python 1>&2
	@echo "installing Python packages into $(VENV)" 1>&2
	@python3 -m venv --clear $(VENV)
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --retries 8 --require-hashes -r requirements.lock 1>&2 \
	  || { echo "pip could not install what requirements.lock names; see its words above, then run the same make again" 1>&2; exit 1; }
	@$(PYTHON) -c "import pathlib, site; pathlib.Path(site.getsitepackages()[0], 'stackpad-checkout.pth').write_text('$(CURDIR)\n')"
	@printf '#!/bin/sh\nexec %s -c "from stackpad.cli import main; main()" "$$@"\n' "$(CURDIR)/$(PYTHON)" > $(VENV)/bin/stackpad
	@chmod +x $(VENV)/bin/stackpad
	@touch $@

.PHONY: help up down test lint bench chaos testbed testbed-down plugin install uninstall lock sbom audit requirements
