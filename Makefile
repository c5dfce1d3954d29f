# Everything runs from .venv/, which scripts/setup makes and keeps up to date.
# `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PORT ?= 8000
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
ARGS ?=
BIN := .venv/bin

RUN_STAMP := .venv/.run-stamp
DEV_STAMP := .venv/.dev-stamp
SETUP := scripts/setup pyproject.toml requirements/uv.txt requirements/build.txt requirements/node.txt

# One set of versions for every supported Python and platform, with hashes.
# `make lock UPGRADE=1` moves to the newest releases.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'

# ---------------------------------------------------------------- environment

$(RUN_STAMP): $(SETUP) requirements/run.txt
	@scripts/setup run

$(DEV_STAMP): $(SETUP) requirements/dev.txt
	@scripts/setup dev

# What the pages run in the browser, and the packages it is checked with.
BUILT := src/kilowatch/pages/built/manifest.json
WEB_DEV := web/node_modules/.dev-stamp

$(BUILT): web/build.mjs web/package-lock.json $(wildcard web/src/*) | $(RUN_STAMP)
	@scripts/assets run

$(WEB_DEV): web/package-lock.json | $(DEV_STAMP)
	@scripts/assets dev

.PHONY: install
install: ## Make .venv with all that running and developing need (PYTHON=... chooses the interpreter)
	@scripts/setup dev
	@scripts/assets dev

.PHONY: lock
lock: ## Compile requirements/*.txt from pyproject.toml (UPGRADE=1: newest releases)
	@scripts/setup uv
	$(COMPILE) pyproject.toml --extra otel --output-file requirements/run.txt
	$(COMPILE) pyproject.toml --group dev --constraints requirements/run.txt --output-file requirements/dev.txt
	$(COMPILE) --group build --constraints requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE) --group node --constraints requirements/dev.txt --output-file requirements/node.txt
	$(COMPILE) --group uv --constraints requirements/dev.txt --output-file requirements/uv.txt

# ---------------------------------------------------------------- running

.PHONY: demo
demo: $(RUN_STAMP) $(BUILT) ## Load a real house and simulated sites, and serve them (PORT=8000); Ctrl-C ends it
	@exec $(BIN)/kilowatch demo --port $(PORT) $(ARGS)

.PHONY: serve
serve: $(RUN_STAMP) $(BUILT) ## Run the server (ARGS='...' are handed on)
	@exec $(BIN)/kilowatch serve $(ARGS)

.PHONY: image
image: ## Build the container images kilowatch and kilowatch-proxy (needs Docker)
	@command -v docker >/dev/null 2>&1 && docker version >/dev/null 2>&1 || { \
		echo "make image: there is no Docker engine here that answers. Install Docker, or start it; without containers: deploy/install-server." >&2; exit 1; }
	docker build --target proxy --tag kilowatch-proxy:$(VERSION) $(ARGS) .
	docker build --target app --tag kilowatch:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(ARGS) .

.PHONY: openapi
openapi: $(RUN_STAMP) ## Write openapi.json
	$(BIN)/kilowatch openapi > openapi.json.tmp
	@mv openapi.json.tmp openapi.json

TEXTS := src/kilowatch/pages/texts
.PHONY: texts
texts: $(DEV_STAMP) ## Bring the pages' texts (src/kilowatch/pages/texts) up to date, and compile them
	$(BIN)/pybabel -q extract -F $(TEXTS)/babel.cfg -k N_ -k said --no-location --sort-output -o texts.pot.tmp src/kilowatch
	$(BIN)/pybabel -q update -D kilowatch -i texts.pot.tmp -d $(TEXTS) --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date -w 120
	$(BIN)/pybabel -q compile -D kilowatch -d $(TEXTS)
	@rm texts.pot.tmp

# ---------------------------------------------------------------- checking

.PHONY: test
test: check ## Check, then run the tests (ARGS='-k name' is handed to pytest)
	$(BIN)/python -m pytest $(ARGS)

.PHONY: check
check: $(DEV_STAMP) $(WEB_DEV) $(BUILT) ## Formatting, lint, types and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH=$(CURDIR)/$(BIN):$$PATH web/node_modules/.bin/tsc --project web

.PHONY: format
format: $(DEV_STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: bench
bench: $(DEV_STAMP) $(BUILT) ## Run the benchmarks (ARGS='...' are handed on)
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-fleet
bench-fleet: $(DEV_STAMP) $(BUILT) ## Measure one worker and two on PostgreSQL
	$(BIN)/python -m benchmarks.fleet $(ARGS)

# ---------------------------------------------------------------- cleaning

.PHONY: clean
clean: ## Remove .venv, caches and build output; data below var/ stays
	rm -rf .venv web/node_modules src/kilowatch/pages/built .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist openapi.json.tmp
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
