# No logic here: every target is one command of the tools, in an environment of its own.
PYTHON ?= python3
VENV ?= .venv
DATASET ?= aliccp_sim
BIN = $(VENV)/bin
DEMO_MODELS = shared_bottom,mmoe,aitm,apem
PATHS = src tests benchmarks

.PHONY: help setup demo test check format prepare ui bench chaos wheel clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*##[ ]*/  \1\t/' | expand -t 14
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer)  VENV=$(VENV)  DATASET=$(DATASET)"

setup: $(VENV)/.stamp  ## make .venv with everything in it, once; again when pyproject.toml or constraints.txt changes

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "seqmtl needs Python 3.11 or newer, but $(PYTHON) is %d.%d; say: make setup PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the main job at a small size: four models, two seeds, one table (a few minutes; again: seconds)
	$(BIN)/seqmtl prepare dataset=aliccp_demo
	$(BIN)/seqmtl -m experiment=demo model=$(DEMO_MODELS) dataset=aliccp_demo seed=1,2
	@echo "Compare the runs in the browser: make ui, then open http://127.0.0.1:5000"

test: setup  ## the default test suite (under three minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup  ## format, lint, types and the direction of imports, nothing changed
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/ruff check $(PATHS)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## format and mend what ruff can mend
	$(BIN)/ruff format $(PATHS)
	$(BIN)/ruff check --fix $(PATHS)

prepare: setup  ## raw files to shards: make prepare DATASET=kuairand
	$(BIN)/seqmtl prepare dataset=$(DATASET)

ui: setup  ## MLflow in the browser at http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db --host 127.0.0.1 --port 5000

bench: setup  ## logistic regression and LightGBM on data/kuairand (make prepare DATASET=kuairand)
	$(BIN)/python benchmarks/kuairand_baselines.py

chaos: setup  ## kill jobs, sweeps, ranks and writers at random moments (SEED=… repeats them), and compare; some ten minutes
	$(BIN)/python benchmarks/chaos.py --seed "$(SEED)"

wheel: setup  ## dist/seqmtl-*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove what was built or cached; .venv, data and outputs stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
