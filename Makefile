# `make demo`: environment, install, the main job.  `make test`: environment, install, all tests.
# Needed on the machine: Python >= 3.11 (with venv) and make.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: env demo test docs bench clean lint lint-format lint-ruff lint-types lint-imports \
	lint-spelling lint-docstrings

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/quickstart.py

# One thread a worker: two workers on two cores, and sums that do not depend on the machine.
test: export OMP_NUM_THREADS = 1
test: export MPLBACKEND = agg
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=15 $(PYTEST_ARGS)

# `make -k lint` goes on after a failure and shows what all of them say.
lint: lint-format lint-ruff lint-types lint-imports lint-spelling lint-docstrings

lint-format: $(STAMP)
	$(BIN)/ruff format --check .

lint-ruff: $(STAMP)
	$(BIN)/ruff check .

lint-types: $(STAMP)
	$(BIN)/mypy

lint-imports: $(STAMP)
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

lint-spelling: $(STAMP)
	$(BIN)/codespell

lint-docstrings: $(STAMP)
	find fewshot_sklearn -name '*.py' | sort \
		| xargs $(BIN)/python -m numpydoc.hooks.validate_docstrings

docs: export MPLBACKEND = agg
docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(STAMP)
	@echo "Each file in benchmarks/ is a script of its own and says what it measures:"
	@ls benchmarks

clean:
	rm -rf build dist .coverage* htmlcov docs/_build docs/auto_examples docs/generated \
		docs/sg_execution_times.rst .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find fewshot_sklearn tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
