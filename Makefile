# Development tasks; `make help` lists them.
# PYTHON is the interpreter from which .venv is made, JOBS the number of parallel test processes.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src tests benchmarks tools
PEERS := .bench/peers

# The package is installed editable, so only these two files decide what .venv holds.
NEEDS := pyproject.toml constraints.txt
DEMO_READY := $(VENV)/.uertool-demo
TEST_READY := $(VENV)/.uertool-test

.DEFAULT_GOAL := help
.PHONY: help demo install test quick lint types tests attack bench format tables docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## install into .venv and run a cloze test on bundled Chinese text
	@$(BIN)/uertool cloze --test-path src/uertool/assets/demo_zh.txt --format table

install: $(TEST_READY) ## install uertool and all development dependencies into .venv

test: lint types tests ## lint, types and all tests: what continuous integration runs

lint: $(TEST_READY) ## ruff: rules and format; import-linter: layers and circles
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	PYTHONPATH=src $(BIN)/lint-imports --no-cache --no-logo

types: $(TEST_READY) ## mypy, strict
	$(BIN)/mypy

# One thread for each test process: torch's threads would only compete.
tests quick: export OMP_NUM_THREADS ?= 1

tests: $(TEST_READY) ## all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

quick: $(TEST_READY) ## the tests without those marked slow, in under a minute
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

attack: $(TEST_READY) ## run N (10000) broken and hostile inputs, chosen by SEED (0)
	UERTOOL_ATTACKS=$(or $(N),10000) UERTOOL_ATTACK_SEED=$(or $(SEED),0) \
		$(BIN)/python -m pytest tests/attack -q --timeout 0

bench: $(TEST_READY) $(PEERS)/.ready ## measure everything next to other libraries and write docs/benchmarks.md
	$(BIN)/python -m benchmarks.report

$(PEERS)/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	-$(PEERS)/bin/python -m pip install --quiet -r benchmarks/peers.txt
	@touch $@

format: $(TEST_READY) ## format the sources with ruff
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

tables: $(TEST_READY) ## update option tables, the terminal picture and the stub of the Python functions
	$(BIN)/python tools/option_tables.py
	$(BIN)/python tools/terminal_picture.py

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(TEST_READY) ## build the documentation site into site/ and check its links
	PYTHONPATH=tools $(BIN)/mkdocs build --strict --quiet -f tools/mkdocs.yml
	@echo "open site/index.html, or with its search: $(PYTHON) -m http.server --directory site"

clean: ## remove .venv, caches and builds
	rm -rf site $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): $(NEEDS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(TEST_READY): $(NEEDS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(DEMO_READY)
