# make pareto   run the main sweep and draw its Pareto front
# make study    run the central study, AFD against EP (about 20 minutes on 2 cores)
# make accuracy compare predictions with measured points and write docs/validation.md's tables
# make test     run all tests
# make nightly  run the tests that try many more examples, and 20,000 changed input files
# make newest   run all tests with the newest releases that pyproject.toml allows
# make docs     make a site of README.md and docs/ in site/, which opens offline
# make lint     ruff, formatting, types
# make bench    print what each job costs, beside its limit (ROWS='run or schema' chooses rows)
# make cluster  install Dask beside afdsim, for the workers of a cluster
# make lock     choose the releases anew that all of these but `newest` install
#
# The lock, .lock/*.txt, names one release of each package for Python 3.11 and later on every
# platform, with the hashes of all of its files; where they come from is pip's configuration.
# run.txt is what afdsim needs, cluster.txt adds Dask, docs.txt what the site is made with, dev.txt
# what the tests need.

# The first Python that is new enough and can make environments, or PYTHON=... of your own.
PYTHON ?= $(firstword $(foreach each,python3.11 python3.12 python3.13 python3 python,$(shell \
	$(each) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	&& echo $(each))))
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: pareto study accuracy test nightly newest lint bench docs cluster lock clean python

pareto: .venv/installed
	$(BIN)/afdsim sweep step3-vs-dsv3 --out results/runs/pareto

study: .venv/installed
	$(BIN)/afdsim study afd-vs-ep

accuracy: .venv/installed
	$(BIN)/afdsim accuracy results/accuracy/points.csv --pairs results/accuracy/pairs.csv \
		--table results/accuracy/rows.csv --report docs/validation.md
	$(BIN)/afdsim accuracy --stages results/accuracy/stages.csv \
		--table results/accuracy/stage-rows.csv --report docs/validation.md

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto

nightly: .venv/installed-dev
	$(BIN)/python -m pytest -n auto -m 'nightly or mutations'

# A new environment each time: an old one would keep releases that are still in range.
newest: | python
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) -e '.[dev]'
	.venv-newest/bin/python -m pip freeze --exclude-editable --disable-pip-version-check
	.venv-newest/bin/python -m pytest -n auto

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m pytest -m bench -k '$(ROWS)' tests/bench

# A site needs nothing but its own files; no banner tells of releases to come.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

cluster: .venv/installed
	$(BIN)/python $(PIP) --require-hashes -r .lock/cluster.txt

.venv/installed: pyproject.toml .lock/run.txt | python
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) --require-hashes -r .lock/run.txt
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m sim.decoding.loops
	touch $@

.venv/installed-dev: .venv/installed .lock/dev.txt
	$(BIN)/python $(PIP) --require-hashes -r .lock/dev.txt
	touch $@

.venv/installed-docs: .venv/installed .lock/docs.txt
	$(BIN)/python $(PIP) --require-hashes -r .lock/docs.txt
	touch $@

# dev.txt holds all packages; the others take their releases from it.
LOCK := .venv-lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--fork-strategy fewest --generate-hashes --no-annotate --custom-compile-command 'make lock' \
	--upgrade pyproject.toml --group pyproject.toml:build

lock: | python
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) uv
	mkdir -p .lock
	$(LOCK) --extra dev --extra cluster --extra docs -o .lock/dev.txt
	$(LOCK) -c .lock/dev.txt -o .lock/run.txt
	$(LOCK) -c .lock/dev.txt --extra cluster -o .lock/cluster.txt
	$(LOCK) -c .lock/dev.txt --extra docs -o .lock/docs.txt

python:
	@test -n "$(PYTHON)" || { echo 'afdsim needs Python 3.11 or later, with venv; name one: make PYTHON=/path/to/python3' >&2; exit 1; }

clean:
	rm -rf .venv .venv-newest .venv-lock dist site
