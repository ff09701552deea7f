# Everything runs in a virtual environment of its own; nothing but Python 3.11 or later and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# In the order of the folders: by default files with few tests, such as the fault suites, would come last, one core idle.
TOGETHER := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-slow bench lint types docs docs-serve audit clean

quickstart: $(VENV)/.run  ## train on the embedded radar sample, forecast, score, draw
	$(BIN)/sa-nowcast run recipes/quickstart.yaml

test: $(VENV)/.test  ## the test suite without the slow cases, a file on each core
	$(BIN)/python -m pytest $(TOGETHER)

test-slow: $(VENV)/.test  ## all tests, the slow cases too
	$(BIN)/python -m pytest $(TOGETHER) -m "not benchmark"

bench: $(VENV)/.test  ## ratios of time and memory, printed
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.lint
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the pages, into site/; runs the tutorials
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/.docs
	$(BIN)/mkdocs serve

audit:  ## known vulnerabilities of the pinned versions; asks the network, from an environment of its own
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sa_nowcast needs Python 3.11 or later, found " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first and alone, so that no other package can ask for another build of it.
$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e ".[train,plot]"
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) -e ".[test,lint]"
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) -e ".[all,docs]"
	@touch $@
