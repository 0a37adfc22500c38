# Needs Python 3.11 or newer, make, and nothing else. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/amnestic-installed
UNFINISHED := $(VENV)/amnestic-unfinished

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(INSTALLED) ## train, unlearn and compare small models of invented people: some minutes, no download
	$(BIN)/amnestic demo --overwrite

.PHONY: test
test: $(INSTALLED) ## run all tests
	$(BIN)/python -m pytest -n $(WORKERS)

.PHONY: check
check: style lint types imports tables ## check format, lint, types, import directions and generated tables

.PHONY: style
style: $(INSTALLED)
	$(BIN)/ruff format --check

.PHONY: lint
lint: $(INSTALLED)
	$(BIN)/ruff check

.PHONY: types
types: $(INSTALLED)
	$(BIN)/mypy

.PHONY: imports
imports: $(INSTALLED)
	$(BIN)/lint-imports

.PHONY: tables
tables: $(INSTALLED)
	$(BIN)/python tools/tables.py --check

.PHONY: format
format: $(INSTALLED) ## format the code, mend what ruff can mend, and write the generated tables
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/python tools/tables.py

.PHONY: clean
clean: ## remove caches, build output and the demonstration's folder; the environment stays
	rm -rf amnestic-demo build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark of an unfinished installation becomes that of a finished one in one last step: what was interrupted is made
# anew. An environment without either mark is the user's own, and is kept.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || \
		{ echo "There is no $(PYTHON) here. Name a Python of 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "amnestic needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@mv -f $(UNFINISHED) $(INSTALLED)
