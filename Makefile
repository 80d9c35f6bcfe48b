# `make demo` and `make test` are all a newcomer needs; both set up .venv themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two workers of one thread each use both cores of a small machine; -n 0 runs the tests in this process.
WORKERS ?= 2

.PHONY: demo test lint format types unit bench clean

demo: $(VENV)/.installed-demo
	$(BIN)/ndsnn train --output runs/demo --overwrite true
	$(BIN)/ndsnn inspect runs/demo

test: lint types unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

unit: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/augmentation.py

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ndsnn needs Python 3.11 or newer; say make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# An extra is installed again only when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
