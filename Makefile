# Every target does its own set-up. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
.PHONY: demo demo-confirm test slow faults cluster-test lint dist bench bench-settings bench-glue \
  results lock audit clean

demo demo-confirm test slow faults cluster-test bench bench-settings bench-glue results: \
  export HF_HUB_OFFLINE := 1

demo: .venv/ready                   # the first search, end to end; again = goes on
	$(BIN)/latentune run examples/quickstart.yaml
demo-confirm: demo                  # its winner, confirmed with fewer seeds and rows than by default
	$(BIN)/latentune confirm generation-quickstart --set confirm.seeds=3 --set confirm.rows=100 \
	  --set confirm.top=2 --set confirm.control_lr_factors='[1.0]'
test: .venv/ready                   # all but slow, gpu and cluster
	$(BIN)/python -m pytest
slow: .venv/ready
	$(BIN)/python -m pytest -m "slow and not gpu and not cluster"
faults: .venv/ready                 # what is killed, cut and filled; writes docs/reliability.md
	FAULTS_RESULTS=benchmarks/results/faults.json $(BIN)/python -m pytest -m faults; \
	  tried=$$?; $(BIN)/python -m benchmarks.reliability; exit $$tried
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
bench: .venv/ready                  # what has a target on a CPU, a quarter of an hour; docs/performance.md
	$(BIN)/python -m benchmarks
bench-settings: .venv/ready         # what defaults were chosen by
	$(BIN)/python -m benchmarks settings
bench-glue: .venv/ready             # against Ray Tune and PEFT glued by hand
	$(BIN)/python -m benchmarks.glue
	$(BIN)/python -m benchmarks.page
results: .venv/ready                # the paper's three tasks, then all axes, confirmed: some hours on two cores
	for task in generation summation repetition; do \
	  $(BIN)/latentune run examples/paper/$$task.yaml && \
	  $(BIN)/latentune status paper-$$task --json | $(BIN)/python -m benchmarks.paper keep $$task \
	  || exit 1; \
	done
	$(BIN)/python -m benchmarks.paper
	for task in generation summation repetition; do \
	  $(BIN)/latentune run examples/full/$$task.yaml && \
	  $(BIN)/latentune report full-$$task --to docs/results/$$task/report.html && \
	  $(BIN)/latentune status full-$$task --json | $(BIN)/python -m benchmarks.confirmed keep $$task \
	  || exit 1; \
	done
	$(BIN)/python -m benchmarks.confirmed
lock: .venv/tools                   # after a change of pyproject.toml or constraints.txt
	.venv/tools/bin/uv pip compile pyproject.toml --extra dev -c constraints.txt --universal \
	  --python-version 3.11 --generate-hashes --no-emit-package torch --no-emit-index-url \
	  --no-annotate --no-header --quiet -o requirements.lock
audit: .venv/tools                  # known vulnerabilities; fails where its database is not reached
	.venv/tools/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	  -r constraints.txt || { echo "make audit: not clean, or not known (the database was not \
	reached, or lacks a package): see above" >&2; exit 1; }
clean:                              # keeps .latentune: your searches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# All with hashes but torch, whose build follows the machine, and what it brings for its GPUs.
.venv/ready: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
.venv/tools:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet uv==0.13.9 pip-audit==2.10.1 || { rm -rf $@; exit 1; }
