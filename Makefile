# What one can do here; `make help` lists it.
# PYTHON names the interpreter that .venv is made from, JOBS how many tests run at a time.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src tests benchmarks tools

# What is installed depends on these two files only; the package itself is installed editable.
NEEDS := pyproject.toml constraints.txt
DEMO_READY := $(VENV)/.uertool-demo
TEST_READY := $(VENV)/.uertool-test

.DEFAULT_GOAL := help
.PHONY: help demo install test lint types tests format clean

help: ## list what one can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## install into .venv and fill in blanks in bundled Chinese text
	@$(BIN)/uertool cloze --test-path src/uertool/assets/demo_zh.txt --format table

install: $(TEST_READY) ## install uertool and all that development needs into .venv

test: lint types tests ## lint, types and all tests: what continuous integration runs

lint: $(TEST_READY) ## ruff: rules and layout
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))

types: $(TEST_READY) ## mypy, strict
	$(BIN)/mypy

tests: $(TEST_READY) ## all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

format: $(TEST_READY) ## put the sources into ruff's layout
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

clean: ## remove .venv and what the tools left behind
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): $(NEEDS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(TEST_READY): $(NEEDS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(DEMO_READY)
