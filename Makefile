# Everything goes into .venv; the tests and the demo start a PostgreSQL of their own.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED) ## create .venv with everything in it, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,demo,scripts]'
	@touch $@

demo: install ## migrate a made-up database before your eyes; KEEP=1 leaves its server running
	@$(BIN)/python -m scripts.demo $(if $(KEEP),--keep)

test: lint ## lint, types and all tests
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4

lint: install ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: install ## time the whole migration of 10,000 sessions
	@$(BIN)/python -m scripts.bench
