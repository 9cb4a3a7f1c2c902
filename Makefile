# Everything sets itself up: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests compute on one thread each; a file stays with one worker, which makes what its tests share.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-slow check bench gpu docs package clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ofa needs Python 3.11 or later: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing into $(VENV) (PyTorch is large: a few minutes the first time)"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed  ## Make .venv with everything in it.

demo: setup  ## The whole way on scikit-learn's digits, a few minutes; leaves runs/demo/report.html.
	$(BIN)/ofa demo

# OpenVINO and then torch crash in a process that has decoded images in worker processes, as the whole suite does.
test: setup  ## The default tests, under 15 minutes on two cores.
	$(BIN)/python -m pytest -q $(WORKERS)
	$(BIN)/python -m pytest -q $(WORKERS) -m "alone and not slow"

test-slow: setup  ## An hour: 50 architectures of every preset, the smallest model of every timm family.
	$(BIN)/python -m pytest -q -m slow

check: setup  ## Format, lint, types, tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

bench: setup  ## Measured figures of the docs: supernet, search and table speed.
	$(BIN)/python scripts/bench_core.py

gpu:  ## On a machine with an NVIDIA card: checks and timings, six minutes; WHEELS=DIR PARTS="tests tables" OUT=DIR.
	$(PYTHON) scripts/gpu.py $(if $(WHEELS),--wheels $(WHEELS)) $(if $(PARTS),--parts $(PARTS)) $(if $(OUT),--out $(OUT))

docs: setup  ## The documentation as pages that need no network: site/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: setup  ## Wheel and sdist in dist/, tried in an empty environment: minutes and gigabytes, as PyTorch is installed anew.
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python scripts/try_wheel.py dist

clean:  ## Remove what the commands left, the environment too.
	rm -rf $(VENV) runs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
