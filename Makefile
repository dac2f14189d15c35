# `make book` and `make test` set up everything they need in .venv; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WORKERS ?= 2
# The workers of a test run share the cores; one thread each is fastest, and sums keep their order.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup html book test notebooks bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create .venv with the locked versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[experiments,book,dev]"
	@touch $@

# -W -n --keep-going: a warning or a broken reference fails the build, after all have been listed.
html: $(INSTALLED)
	$(BIN)/jupyter-book build . -W -n --keep-going -q

book: html ## build the book and say where it is
	@echo
	@echo "The book is built. Open file://$(CURDIR)/_build/html/index.html"

test: html ## check pairs and style, then test the library, the built book and the notebooks
	$(BIN)/python tools/notebooks.py check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest --nbval notebooks -n $(WORKERS) --dist loadfile

notebooks: $(INSTALLED) ## run every chapter again, store its outputs and how long it took
	$(BIN)/python tools/notebooks.py execute --record

bench: $(INSTALLED) ## time the library against what one would use otherwise, on one thread and on all
	$(BIN)/python -m benchmarks --threads 1
	test "$$(nproc)" -eq 1 || $(BIN)/python -m benchmarks --threads "$$(nproc)"
	$(BIN)/python -m benchmarks.limits

clean: ## remove the built book and caches, keep .venv
	rm -rf _build .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
