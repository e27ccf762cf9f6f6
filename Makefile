# `make demo` and `make test` set up what they need in .venv. CONTRIBUTING.md explains the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
JOBS ?= 2
PYTEST := pytest -n $(JOBS) --dist loadfile

.PHONY: demo test quick lint types test-oldest clean

demo: $(VENV)/.ready
	$(BIN)/vibethinker run configs/nano/recipe.yaml --jobs $(JOBS)

test: lint types
	$(BIN)/$(PYTEST)

quick: lint
	$(BIN)/$(PYTEST) -q -m "not slow and not gpu"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

# the lower bounds of pyproject.toml, really installed
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/$(PYTEST) -q -m "not slow and not gpu"

# torch first and pinned, so that nothing that comes after decides which build it is
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,quantized]'
	touch $@

$(OLDEST)/.ready: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip
	$(PYTHON) .ci/lowest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev,quantized]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) runs build *.egg-info
