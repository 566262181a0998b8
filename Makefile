# Each target does its own set-up in .venv; nothing needs to be installed by hand but Python 3.10+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench leaks mutants clean

demo: $(STAMP)
	$(BIN)/sandbox-tools demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

leaks: $(STAMP)
	LEAKS=full $(BIN)/python -m pytest -s tests/leaks

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
