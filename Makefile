# Two commands do everything on a fresh machine with Python (3.11 to 3.14) and make: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# GALLERY=0 shows the examples' code without running it (the tests run them): half a minute instead of several.
GALLERY ?= 1

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

.PHONY: demo test test-all architectures lint docs
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -D plot_gallery=$(GALLERY) -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

demo: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# All tests on two cores; the last lines count what holds in how many of transformers' architectures.
test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2

# docs/architectures.md
architectures: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 -m slow --architecture-page tests/architectures

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
