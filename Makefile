# Everything a person or CI does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Images of Python often keep it from writing what it compiled; each process of a mesh would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
MANIFESTS := pyproject.toml uv.lock $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
TRITON := tests/clients/triton

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.ready ## Make the environment .venv from uv.lock; needs only Python 3.11 or newer
	@:

.venv/.ready: $(MANIFESTS) scripts/setup.sh
	@PYTHON=$(PYTHON) scripts/setup.sh . .venv

.PHONY: setup-triton
setup-triton: .venv-triton/.ready ## Make .venv-triton, the environment of the tritonclient tests
	@:

.venv-triton/.ready: $(TRITON)/pyproject.toml $(TRITON)/uv.lock scripts/setup.sh
	@PYTHON=$(PYTHON) scripts/setup.sh $(TRITON) .venv-triton

.PHONY: lock
lock: setup ## Resolve the dependencies again into both uv.lock files
	$(BIN)/uv lock
	$(BIN)/uv lock --project $(TRITON)

.PHONY: generate
generate: setup ## Generate what is checked in: code of the contracts, settings, the errors page, remedies
	$(BIN)/python scripts/generate_protos.py
	$(BIN)/python scripts/generate_config.py
	$(BIN)/python scripts/generate_remedies.py
	$(BIN)/python -m headrace_common.errors_page docs/errors.md

.PHONY: generate-check
generate-check: setup ## Check that what is generated is current
	$(BIN)/python scripts/generate_protos.py --check
	$(BIN)/python scripts/generate_config.py --check
	$(BIN)/python scripts/generate_remedies.py --check
	$(BIN)/python -m headrace_common.errors_page docs/errors.md --check

.PHONY: format
format: setup ## Format Python and proto files
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write

.PHONY: lint
lint: setup ## Lint Python, contracts (also for breaking changes) and Dockerfiles
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	scripts/buf_breaking.sh
	$(BIN)/hadolint services/*/Dockerfile

.PHONY: types
types: setup ## Check types with pyright
	$(BIN)/pyright

.PHONY: imports
imports: setup ## Check who may import whom
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint types imports generate-check ## Everything of `make test` but the tests

.PHONY: test
test: check setup-triton ## All that CI runs: the checks, then every test with coverage
	$(BIN)/pytest --cov --numprocesses 2 --dist loadfile $(ARGS)

.PHONY: soak
soak: setup setup-triton ## Long proofs under tests/soak: kill, leak, overload
	$(BIN)/pytest tests -m fault $(ARGS)
	$(BIN)/pytest tests/soak -o norecursedirs='.*' --timeout=900 $(ARGS)

.PHONY: bench
bench: setup ## Measure a mesh and what it is compared with; ARGS="--quick", ARGS=--help
	@PYTHONPATH=benchmarks:tests $(BIN)/python -m headrace_bench $(ARGS)

.PHONY: run
run: setup ## Start a whole mesh on this machine and send it a first request
	@exec $(BIN)/headrace up $(ARGS)

.PHONY: secrets
secrets: setup ## Make .secrets/ for docker-compose.yml and k8s/
	@$(BIN)/python scripts/deployment_secrets.py

.PHONY: clean
clean: ## Remove the environments and what the tools left; keeps .headrace
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
