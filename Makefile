# make demo: annotate a real MERFISH section.  make test: everything that has to hold.  make docs: the site, in site/.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs clean

demo: .venv/demo.stamp
	$(BIN)/stgnn demo

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# stamps, so that each is installed once, and again only when what is asked for has changed
.venv/demo.stamp: pyproject.toml constraints.txt | .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

.venv/docs.stamp: pyproject.toml constraints.txt | .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

.venv:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv dist htmlcov site .coverage
