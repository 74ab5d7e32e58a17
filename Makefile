# `make help` says what there is. Every target sets up .venv by itself when that is needed.

SCALE ?= demo
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

python := .venv/bin/python
experiments := $(python) -m experiments
# One thread each: test processes that share cores and start more threads than there are cores crawl.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest

.PHONY: help setup list figures test test-slow slurm-test lint format benchmark constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "<artefact>", $$1); printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  SCALE=demo|small|paper  size of the runs (now: $(SCALE)); demo needs minutes on a CPU and no download"
	@echo "  JOBS=4                  runs (or jobs) at the same time (otherwise one for each GPU, or core)"
	@echo "  EXECUTOR=slurm CLUSTER=mine   as jobs of the cluster that slurm/clusters/mine.toml describes"
	@echo "  PYTHON=, TORCH_BUILD=   which interpreter, which build of PyTorch: see scripts/setup"
	@echo "  ARGS=\"-k frn -x\"        more options for pytest"

setup: ## create or update .venv; instantaneous when nothing has changed
	@sh scripts/setup

list: setup ## the paper's tables and figures, and how far each is
	@$(experiments) list

reproduce-%: setup ## run what is missing of a table or figure, and draw it: make reproduce-table1
	@$(experiments) run $* --scale $(SCALE) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(EXECUTOR),--executor $(EXECUTOR)) $(if $(CLUSTER),--cluster $(CLUSTER))

figures: setup ## draw every table and figure from the published records
	@$(experiments) render all --from reference

test: setup ## the tests, without the slow ones
	@$(pytest) -n auto --maxprocesses 8 --dist loadgroup $(ARGS)

test-slow: setup ## the slow tests only
	@$(pytest) -n auto --maxprocesses 8 --dist loadgroup -m "slow and not slurm" $(ARGS)

slurm-test: setup ## the launcher on a real SLURM, installed and started here (Debian, root); all: ARGS="-m slurm"
	@IVON_SLURM_REQUIRED=1 $(pytest) -m "slurm and not slow" tests/slurm $(ARGS)

lint: setup ## style, types of ivon/ and the direction of imports; changes nothing
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m pyright
	@$(pytest) -q tests/test_imports.py

format: setup ## apply the style
	@$(python) -m ruff check --fix --quiet .
	@$(python) -m ruff format .

benchmark: setup ## the optimizer's speed and memory beside its peers; written to results/benchmarks
	@$(python) -m benchmarks.report

constraints: setup ## resolve constraints.txt anew from pyproject.toml
	@sh scripts/resolve-constraints

clean: ## remove .venv and caches; results and data stay
	@rm -rf .venv .venv.lock .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -not -path './results/*' -not -path './data/*' -prune -exec rm -rf {} +
