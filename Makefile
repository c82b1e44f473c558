# The commands that people and CI run. Needs python3 (3.11) with venv, and make; installs all else into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AIRFLOW := .venv-airflow
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
DEMO := demo
# The machine's own certificates: companies have theirs.
UV := $(BIN)/uv --system-certs pip
# Where it is set, as in many containers, each process would compile all that it imports anew: torch takes twice as long.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-cluster test-dags soak lint types bench lock clean cluster-up cluster-down dist airflow

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(VENV)/.demo  ## raw digits to a tested model, in a minute
	@$(BIN)/penstock run digits --out $(DEMO) \
	    --raw "$$($(BIN)/python -c 'import sklearn.datasets as d; print(*d.__path__)')/data/digits.csv.gz"
	@printf '%s\n' '' 'What to try next:' \
	    '  $(BIN)/penstock verify $(DEMO)/dataset' \
	    '  $(BIN)/python -c "import pandas; print(pandas.read_parquet(\"$(DEMO)/runs/1/predictions.parquet\"))"' \
	    '  $(BIN)/penstock run mnist --raw <folder with the four idx .gz files> --out mnist_demo' \
	    '  docs/adding_a_recipe.md: your own data'

test: $(VENV)/.dev  ## all tests but the slow ones (COVERAGE=1 says what they reach)
	@$(PYTEST) $(if $(COVERAGE),--cov --cov-report=term:skip-covered) -m "not slow and not soak and not cluster and not dags" tests

test-slow: $(VENV)/.dev  ## those that take longer: whole data sets, every example, kills, the guide word for word
	@$(PYTEST) -m "slow and not soak" tests

test-cluster: $(VENV)/.dev  ## the tests on real HDFS, YARN and Spark daemons, which they start and stop
	@$(BIN)/python -m pytest -m "cluster and not soak" tests/cluster

test-dags: $(VENV)/.dev $(AIRFLOW)/.made  ## the pipelines in a real Airflow, which they start and stop
	@$(BIN)/python -m pytest -m "dags and not soak" tests/dags

soak: $(VENV)/.dev $(AIRFLOW)/.made  ## the tests that kill and corrupt many times, KILLS=10 of each kind; adds to bench/results/<date>-soak.md
	@$(BIN)/python -m pytest -p tests.note -m soak $(or $(WHERE),tests)
	$(if $(WHERE),,@for n in $$(seq $${KILLS:-2}); do $(BIN)/python -m pytest -p tests.note -m dags tests/dags || exit 1; done)

lint: $(VENV)/.dev  ## style, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

dist:  ## dist/penstock.zip: the code that a Spark cluster's executors need
	@$(PYTHON) -m cluster.dist

airflow: $(VENV)/.demo $(AIRFLOW)/.made  ## Airflow on 127.0.0.1:8080 with the demo's pipelines (UNPAUSED=1, PIPELINES=FILE)
	@exec $(BIN)/python -m dags.serve $(if $(UNPAUSED),--unpaused) $(if $(PIPELINES),--pipelines "$(PIPELINES)")

cluster-up: $(VENV)/.dev  ## real HDFS, YARN and Spark daemons on this machine, on 127.0.0.1
	@$(BIN)/python -m cluster up

cluster-down: $(VENV)/.dev  ## stop exactly these; their data stays in .cluster
	@$(BIN)/python -m cluster down

bench: $(VENV)/.dev  ## the figures of README (RAW=<folder of MNIST's idx files>)
	@$(BIN)/python -m bench.convert --raw "$(RAW)" && $(BIN)/python -m bench.mnist --raw "$(RAW)" --seeds 5

lock: $(VENV)/.uv  ## write requirements/*.lock anew from pyproject.toml
	@for place in dev demo etl examples tracking train; do \
	    $(UV) compile --quiet --universal --generate-hashes --no-emit-index-url \
	        --custom-compile-command 'make lock' pyproject.toml --extra $$place \
	        $$([ $$place = dev ] || echo -c requirements/dev.lock) -o requirements/$$place.lock || exit 1; \
	done
	@$(UV) compile --quiet --universal --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
	    pyproject.toml --extra airflow -o requirements/airflow.lock
	@echo 'uv==0.13.9' | $(UV) compile --quiet --universal --generate-hashes --no-emit-index-url \
	    --custom-compile-command 'make lock' - -o requirements/uv.lock

clean:  ## remove what the commands above made
	@rm -rf $(VENV) $(AIRFLOW) .airflow $(DEMO) .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.uv: requirements/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11, found %d.%d: make PYTHON=python3.11 …" % sys.version_info[:2] \
	    if sys.version_info[:2] not in ((3, 11), (3, 12)) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes on a slow line)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/uv.lock
	@touch $@

# The lock files are complete: --no-deps keeps petastorm's outdated caps from being asked.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: requirements/%.lock pyproject.toml | $(VENV)/.uv
	@$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes -r $<
	@$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Airflow's provider for Spark brings files of pyspark's: an environment of its own.
$(AIRFLOW)/.made: requirements/airflow.lock | $(VENV)/.uv
	@echo "Installing Airflow into $(AIRFLOW) (once)"
	@$(PYTHON) -m venv $(AIRFLOW)
	@$(UV) install --quiet --python $(AIRFLOW)/bin/python --no-deps --require-hashes -r $<
	@touch $@
