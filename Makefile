# make pareto   run the main sweep and draw its Pareto front
# make study    run the central study, AFD against EP (about 50 minutes on 2 cores)
# make test     run all tests
# make lint     ruff, formatting, types
# make bench    report speed ratios

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: pareto study test lint bench clean

pareto: .venv/installed
	$(BIN)/afdsim sweep step3-vs-dsv3 --out results/runs/pareto

study: .venv/installed
	$(BIN)/afdsim study afd-vs-ep

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m pytest -m bench -s

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv dist
