# The verbs of the project. `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
BIN = .venv/bin
PHOTO ?=

.PHONY: install demo serve check test test-cluster bench docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "refusion needs Python 3.11 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train]" --group dev
	touch $@

serve: install
	$(BIN)/refusion serve

demo: install
	$(BIN)/python examples/demo.py $(if $(PHOTO),"$(PHOTO)")

check: install docs
	$(BIN)/ruff format --check src tests examples benchmarks docs
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: install
	$(BIN)/python -m pytest -n 2
	$(BIN)/python -m pytest -m slow -n 2

test-cluster: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group cluster
	$(BIN)/python -m pytest -m cluster --timeout 900

bench: install
	$(BIN)/python benchmarks/restore.py
	$(BIN)/python benchmarks/training.py

docs: install
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

clean:
	rm -rf .venv docs/_build demo.png
