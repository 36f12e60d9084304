# Every target does its own set-up. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
.PHONY: demo demo-confirm test slow cluster-test lint dist bench bench-glue results clean

demo demo-confirm test slow cluster-test bench bench-glue results: export HF_HUB_OFFLINE := 1

demo: .venv/ready                   # the first search, end to end; again = goes on
	$(BIN)/latentune run examples/quickstart.yaml
demo-confirm: demo                  # its winner, confirmed with fewer seeds and rows than by default
	$(BIN)/latentune confirm generation-quickstart --set confirm.seeds=3 --set confirm.rows=100 \
	  --set confirm.top=2 --set confirm.control_lr_factors='[1.0]'
test: .venv/ready                   # all but slow, gpu and cluster
	$(BIN)/python -m pytest
slow: .venv/ready
	$(BIN)/python -m pytest -m "slow and not gpu and not cluster"
cluster-test: .venv/ready           # `ray up` on five hosts made here; needs root, sshd, rsync, iproute2
	$(BIN)/python -m pytest -m cluster
lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
dist: .venv/ready                   # what a cluster's nodes install: package, lock, their scripts
	rm -rf dist && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	cp constraints.txt $(wildcard requirements.lock) deploy/install.sh deploy/environment.sh dist
bench: .venv/ready                  # the rows of a CPU; writes docs/performance.md
	$(BIN)/python -m benchmarks
bench-glue: .venv/ready             # against Ray Tune and PEFT glued by hand
	$(BIN)/python -m benchmarks.glue
	$(BIN)/python -m benchmarks.page
results: .venv/ready                # the paper's three tasks, about half an hour; writes docs/results.md
	for task in generation summation repetition; do \
	  $(BIN)/latentune run examples/paper/$$task.yaml && \
	  $(BIN)/latentune status paper-$$task --json | $(BIN)/python -m benchmarks.paper keep $$task \
	  || exit 1; \
	done
	$(BIN)/python -m benchmarks.paper
clean:                              # keeps .latentune: your searches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
