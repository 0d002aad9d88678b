# Everything goes into .venv; the tests and the demo start a PostgreSQL of their own.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4

.DEFAULT_GOAL := help
.PHONY: help install demo test test-matrix test-stock fuzz faults soak lint bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## create .venv with everything in it, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,demo,scripts,serve]'
	@touch $@

demo: install ## migrate a made-up database before your eyes; KEEP=1 leaves its server running
	@$(BIN)/workshop demo $(if $(KEEP),--keep)

test: lint ## lint, types and all tests
	$(PYTEST)

test-matrix: install ## the tests on PostgreSQL 16, and on 15, which has to be installed
	$(PYTEST) --major 16
	$(PYTEST) --major 15

test-stock: install ## the most telling tests on an installed PostgreSQL 15
	$(PYTEST) --major 15 $(addprefix tests/test_,load.py merge.py offline.py revisions.py sql.py status.py)

fuzz: install ## look for legacy databases and corrupted rows that nobody thought of; takes long
	MUTATION_SEED=$$(date +%s) $(PYTEST) --hypothesis-profile=thorough \
		tests/test_merge.py tests/test_mutations.py

faults: install ## the migrator dies at every point, in every way
	$(PYTEST) --faults tests/test_faults.py

soak: install ## a million writes while upgrade, downgrade and upgrade run; WRITES=10000 for fewer
	$(BIN)/python tests/support/soak.py --writes $(or $(WRITES),1000000)

lint: install ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: install ## measure 10,000 and 100,000 sessions against the physical floor; N="1000000" for others
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/workshop bench $(addprefix --sessions ,$(N)) --json docs/performance.json --plot docs/performance.svg
