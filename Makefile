# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    the main job on a SYNTHETIC set, to a report
#   make test    every check and test
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check unit clean

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

unit: .venv/test
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90 --durations=15

clean:
	rm -rf .venv runs build dist .mypy_cache .ruff_cache .pytest_cache
