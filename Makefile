# Every target sets up what it needs: a virtual environment in .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-fast test-faults bench lint teachers clean

setup: .venv/ready

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Data, student, baseline and test on the built-in data: a table and a report.
demo: setup
	$(BIN)/python rayjobs/demo.py

# What needs no Ray runs on all cores; Ray shares them out itself.
test: lint
	$(BIN)/pytest -m "not ray and not faults" -n auto
	$(BIN)/pytest -m "ray and not faults"

# The inner loop.
test-fast: setup
	$(BIN)/pytest -m "not ray and not slow" -n auto

# Processes and nodes are killed, disks filled, teachers hung (about twenty-five minutes).
test-faults: setup
	$(BIN)/pytest -m faults

# The figures of docs/performance.md with their limits (about two hours on two cores that do nothing else).
bench: setup
	$(BIN)/python benchmarks/run.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The teachers that are shipped in mmkd/zoo, trained anew (about an hour on two cores; docs/tabletop.md).
teachers: setup
	PYTHON=$(BIN)/python sh benchmarks/teachers.sh

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
