# make train   set everything up in .venv and train a small Swin on the images that come with the project
# make test    set everything up and run every check: format, lint, types, tests
# make docs    build the documentation as a site, build/docs/index.html; opens offline

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test docs setup setup-dev tools clean

train: setup
	$(BIN)/swinkit train

test: tools setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -d build/docs-trees docs build/docs
	@echo "build/docs/index.html"

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# The C++ library is part of the installation, so its sources make it new.
NATIVE := setup.py $(wildcard src/swinkit/kernels/cpu/native/*)

$(VENV)/.installed: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(VENV)/.installed $@

# For the checks of the C++ library: a compiler, valgrind, and an arm64 compiler and emulator; for those of pages: a browser. Whoever may
# not install them skips those tests, which pytest lists with the reason.
TOOLS := g++ valgrind g++-aarch64-linux-gnu qemu-user chromium
tools:
	@for tool in g++ valgrind aarch64-linux-gnu-g++ qemu-aarch64 chromium; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLS) >/dev/null; then exit 0; fi; \
	echo "tests that need $(TOOLS) are skipped where one of them is missing"

clean:
	rm -rf $(VENV) build dist src/*.egg-info
