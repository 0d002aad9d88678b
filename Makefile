# All packages are in .venv; the tests and the demo start their own PostgreSQL server.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4

.DEFAULT_GOAL := help
.PHONY: help install demo test test-matrix test-stock fuzz faults soak lint bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## create .venv with all packages, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,demo,scripts,serve]'
	@touch $@

demo: install ## migrate a made-up database; KEEP=1 leaves its server running
	@$(BIN)/workshop demo $(if $(KEEP),--keep)

test: lint ## run lint, types and all tests
	$(PYTEST)

test-matrix: install ## run the tests on PostgreSQL 16, and on an installed 15
	$(PYTEST) --major 16
	$(PYTEST) --major 15

test-stock: install ## run the most important tests on an installed PostgreSQL 15
	$(PYTEST) --major 15 $(addprefix tests/test_,load.py merge.py offline.py revisions.py sql.py status.py)

fuzz: install ## search for untested legacy databases and corrupted rows; takes long
	MUTATION_SEED=$$(date +%s) $(PYTEST) --hypothesis-profile=thorough \
		tests/test_merge.py tests/test_mutations.py

faults: install ## kill the migrator at every point, in every way
	$(PYTEST) --faults tests/test_faults.py

soak: install ## write a million times during upgrade, downgrade and upgrade; WRITES=10000 for fewer
	$(BIN)/python tests/support/soak.py --writes $(or $(WRITES),1000000)

lint: install ## run ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: install ## measure 10,000 and 100,000 sessions against two baselines; N="1000000" for others
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/workshop bench $(addprefix --sessions ,$(N)) --json docs/performance.json --plot docs/performance.svg
