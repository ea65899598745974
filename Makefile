# The only things that one needs to know: `make run` and `make test`.
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help
# Compiled once, not at each start of a process: the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help run test dist js faults attacks soak eval bench lint types contracts format setup setup-test browser programs clean

BIN := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## set up what is missing and start the service with all that it needs; Ctrl-C stops it
	@exec $(BIN)/python server.py

test: setup-test browser programs lint types contracts ## lint, types, import contracts and all tests
	@tools/tests.sh
	@tools/js.sh

dist: setup-test ## wheel and sdist in dist/, each installed into an empty environment and run there
	@tools/dist.sh

js: setup-test browser ## the TypeScript client alone: types, size, tests against the real service
	@tools/js.sh

faults: setup-test programs ## break the service in every way it must survive, with figures; takes some minutes
	@$(BIN)/python -m tests.faults

attacks: setup-test ## what one address or one account can do to others, each attack for half a minute; about 20 minutes
	@$(BIN)/python -m tests.attacks --write

soak: setup-test ## half an hour of steady load and random faults, does anything grow or get lost; MINUTES=30 SEED=1
	@$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),1)

eval: setup-test ## what the twin learns from dialogues, and what it rightly does not; DATASET=locomo10.json for a public set
	@$(BIN)/python -m bench.evaluation $(if $(DATASET),--dataset $(DATASET))

bench: setup-test ## what a chunk, an event, a connection cost beside other servers, in one run; about ten minutes
	@tools/bench.sh

lint: setup-test ## style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup-test ## mypy, strict
	@$(BIN)/mypy

contracts: setup-test ## which package may import which
	@$(BIN)/lint-imports

format: setup-test ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .

setup: ## .venv with the service and the embedded engines
	@tools/setup.sh local

setup-test: ## .venv with what the tests need, too
	@tools/setup.sh local,test

browser: setup-test
	@tools/browser.sh

programs: setup-test
	@tools/programs.sh

clean: ## remove .venv and caches; the data of the embedded engines in .twin stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './node_modules/*' -prune -exec rm -rf {} +
