# On a fresh machine with Python 3.11 or newer:
#   make demo      the main job on a SYNTHETIC set, to a report
#   make test      every check, and every test in the size that proves the thing
#   make nightly   every check and test in full, with coverage; a part of it alone with
#                  make nightly-tests PART=2/4, and the coverage of all parts after them
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15
PARTS := 1/4 2/4 3/4 4/4
PART ?= 1/1
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check unit nightly nightly-tests nightly-coverage clean

.venv/base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	touch $@

.venv/compress: .venv/base
	$(PIP) -e '.[compress]'
	touch $@

.venv/test: .venv/base
	$(PIP) -e '.[test]'
	touch .venv/compress $@

demo: .venv/compress
	$(BIN)/clinipress demo --out runs/demo

test: check unit

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# two processes of one thread each: threads of tiny networks wait longer than they compute
unit: export OMP_NUM_THREADS = 1
unit: .venv/test
	$(PYTEST) -m "not nightly"

# every part is run, also after one that failed
nightly: check
	rm -f .coverage .coverage.*
	@failed=0; \
	for part in $(PARTS); do $(MAKE) nightly-tests PART=$$part || failed=1; done; \
	$(MAKE) nightly-coverage || failed=1; \
	exit $$failed

nightly-tests: export COVERAGE_FILE = .coverage.part-$(subst /,-of-,$(PART))
nightly-tests: .venv/test
	$(PYTEST) --part $(PART) --cov --cov-report=

nightly-coverage: .venv/test
	$(BIN)/python -m coverage combine --keep
	$(BIN)/python -m coverage report --skip-covered --fail-under=95

clean:
	rm -rf .venv runs build dist .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.*
