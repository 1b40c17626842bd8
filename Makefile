# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test quick faults lint types clean

demo: $(VENV)/.demo  ## the environment, then the main job on built-in data
	$(BIN)/fullconv demo --out $(OUT)

test: $(VENV)/.dev  ## the environment, then all tests, in JOBS processes
	$(PYTEST)

quick: $(VENV)/.dev  ## all tests but those marked slow
	$(PYTEST) -m "not slow"

faults: $(VENV)/.dev  ## kills, full disks, power cuts and flipped bits in full counts: many minutes
	$(BIN)/python benchmarks/faults.py

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(BIN)/python:
	@echo "making the environment in $(VENV) ..."
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing fullconv and what it needs (torch is large: this takes a minute or more) ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing fullconv with its tests and linters (torch is large: this takes a minute or more) ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.demo
