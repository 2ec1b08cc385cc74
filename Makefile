# Two commands do everything on a fresh machine with Python 3.11 or later:
#   make demo   sets up, trains all five systems on the embedded world, ends with the path of a page
#               (make demo SYSTEM=classify trains one: classify, segment, parse, adapt or fusion)
#   make test   sets up, checks style, types and import directions, runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cksum constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
SYSTEM ?=
# one thread per test process: the tests run side by side
JOBS ?= $(shell $(PYTHON) -c "import os; print(max(1, min(4, os.cpu_count() or 1)))")

.PHONY: demo test check test-nightly clean

demo: $(READY)
	$(BIN)/visloom demo $(SYSTEM)

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not nightly"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-nightly: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'visloom needs Python 3.11 or later; set PYTHON=python3.11')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,digits]'
	rm -f $(VENV)/ready-*
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
