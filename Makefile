# No logic here: every target is one command of the tools, in an environment of its own.
PYTHON ?= python3
VENV ?= .venv
DATASET ?= aliccp_sim
SEEDS ?= 1,2,3,4,5
OPTIONS ?=
BIN = $(VENV)/bin
DEMO_MODELS = shared_bottom,mmoe,aitm,apem
PATHS = src tests benchmarks
RUNS = seeds=$(SEEDS) launcher=parallel $(OPTIONS)

.PHONY: tables-tiny help setup demo test check format prepare ui bench baselines chaos wheel clean
.PHONY: reproduce-table2 reproduce-table2-industrial aitm-table3 apem-table3 apem-table4 apem-table5 apem-figure9 man-table1 man-table2
.PHONY: dtrn-table1 dtrn-table4 dtrn-table5 dtrn-table6 dtrn-table7 dtrn-table8 dtrn-table9 all-models
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*##[ ]*/  \1\t/' | expand -t 32
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer)  VENV=$(VENV)  DATASET=$(DATASET)"
	@echo "Of tables: SEEDS=$(SEEDS)  OPTIONS=$(OPTIONS) (more words of the command: dataset=tenrec trainer=gpu)"

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

reproduce-table2: setup  ## AITM, Table 2, public part: make reproduce-table2 DATASET=aliccp SEEDS=1,2
	$(BIN)/seqmtl table aitm_table2 part=public dataset=$(DATASET) $(RUNS)

reproduce-table2-industrial: setup  ## AITM, Table 2, industrial part, simulated
	$(BIN)/seqmtl table aitm_table2 part=industrial $(RUNS)

aitm-table3: setup  ## AITM, Table 3: its online test, replayed on the simulator
	$(BIN)/seqmtl table aitm_table3 $(RUNS)

apem-table3: setup  ## APEM, Table 3: eight models on two datasets
	$(BIN)/seqmtl table apem_table3 $(RUNS)

apem-table4: setup  ## APEM, Table 4: its ablations
	$(BIN)/seqmtl table apem_table4 $(RUNS)

apem-table5: setup  ## APEM, Table 5: two scenes of finance, simulated
	$(BIN)/seqmtl table apem_table5 $(RUNS)

apem-figure9: setup  ## APEM, Figure 9: its online test, replayed
	$(BIN)/seqmtl table apem_figure9 $(RUNS)

man-table1: setup  ## MAN, Table 1: seven models
	$(BIN)/seqmtl table man_table1 $(RUNS)

man-table2: setup  ## MAN, Table 2: its ablations
	$(BIN)/seqmtl table man_table2 $(RUNS)

dtrn-table1: setup  ## DTRN, Table 1: categories in histories, no training
	$(BIN)/seqmtl table dtrn_table1 $(RUNS)

dtrn-table4: setup  ## DTRN, Table 4: eleven models on two datasets
	$(BIN)/seqmtl table dtrn_table4 $(RUNS)

dtrn-table5: setup  ## DTRN, Table 5: its two modules
	$(BIN)/seqmtl table dtrn_table5 $(RUNS)

dtrn-table6: setup  ## DTRN, Table 6: ways into the Transformer
	$(BIN)/seqmtl table dtrn_table6 $(RUNS)

dtrn-table7: setup  ## DTRN, Table 7: four trunks
	$(BIN)/seqmtl table dtrn_table7 $(RUNS)

dtrn-table8: setup  ## DTRN, Table 8: without a task
	$(BIN)/seqmtl table dtrn_table8 $(RUNS)

dtrn-table9: setup  ## DTRN, Table 9: its online test, replayed
	$(BIN)/seqmtl table dtrn_table9 $(RUNS)

all-models: setup  ## all models under one protocol: make all-models OPTIONS=dataset=kuairand
	$(BIN)/seqmtl table all_models $(RUNS)

tables-tiny: setup  ## every table at a tiny size, to see that all of it runs; a quarter of an hour
	$(BIN)/python benchmarks/tables_tiny.py

test: setup  ## the default test suite (some four minutes on two cores)
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

bench: setup  ## speed beside torch-rechub and DeepCTR-Torch, in an environment of their own: make bench OPTIONS='--only train'
	$(BIN)/python benchmarks/bench.py $(OPTIONS)

baselines: setup  ## logistic regression and LightGBM on data/kuairand (make prepare DATASET=kuairand)
	$(BIN)/python benchmarks/kuairand_baselines.py

chaos: setup  ## kill jobs, sweeps, ranks and writers at random moments (SEED=… repeats them), and compare; some ten minutes
	$(BIN)/python benchmarks/chaos.py --seed "$(SEED)"

wheel: setup  ## dist/seqmtl-*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove what was built or cached; .venv, data and outputs stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
