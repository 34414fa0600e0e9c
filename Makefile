# Two commands: `make demo` shows a Pareto curve, `make test` runs every check. Each first makes or refreshes .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin
STAMP := .venv/.installed
THREADS := OMP_NUM_THREADS=1

.PHONY: demo test install check clean

demo: install
	$(THREADS) $(BIN)/parediff run -m experiment=demo
	@$(BIN)/parediff dashboard runs/demo

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist loadfile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "parediff needs Python 3.11 or newer: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt --compile-bytecode --editable '.[dev]'
	$(BIN)/python -m compileall -q src
	@touch $(STAMP)

clean:
	rm -rf .venv runs
