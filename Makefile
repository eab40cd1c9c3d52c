# Needs Rust and Python. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := Cargo.toml Cargo.lock .cargo/config.toml $(shell find src -name '*.rs')

.DEFAULT_GOAL := help
.PHONY: help build dev run demo quick test test-rust test-python lint words format docs images wheel wheel-check wheel-suite bench bench-http bench-flat bench-dev compare soak fuzz clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(BIN)/maturin: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	@echo "Preparing $(VENV) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group build
	touch $@

# Python prefers a core of its own version, which may be old, to the abi3 one.
$(VENV)/built: $(BIN)/maturin $(RUST_SOURCES)
	@echo "Building the Rust core and installing the test packages: about a minute the first time ..."
	rm -f python/hubhooks/_core.*.so python/hubhooks/_core.*.pyd
	PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras test
	touch $@

build: $(VENV)/built ## Build the core and install the package into .venv

# The next `make build` replaces the debug core, so the benchmarks never measure it.
dev: $(BIN)/maturin ## Build a debug core and install the package, for the quick tests
	@echo "Building a debug core and installing the test packages: about a minute the first time ..."
	rm -f $(VENV)/built python/hubhooks/_core.*.so python/hubhooks/_core.*.pyd
	PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --quiet --extras test

run: build ## Start the demo app, send it every sample, show the output
	$(BIN)/python scripts/demo.py

PORT ?= 8000
demo: build ## Start the demo app with its page, until Ctrl-C; PORT=8001 chooses another port
	$(BIN)/python scripts/demo.py --stay --port $(PORT)

quick: ## Run the quick Python tests, after make dev or make build
	$(BIN)/python -m pytest

test: test-rust test-python ## Run all tests

test-rust:
	cargo test --no-default-features

$(VENV)/integrations: $(VENV)/built pyproject.toml
	@echo "Installing the packages of the integration tests ..."
	$(BIN)/python -m pip install --quiet --group integrations
	touch $@

test-python: $(VENV)/integrations
	$(BIN)/python -m pytest -m ""

$(VENV)/linters: $(BIN)/maturin
	@echo "Installing the linters ..."
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

lint: $(VENV)/integrations $(VENV)/linters ## Check formats, types, stubs and words
	cargo fmt --check
	cargo clippy --no-default-features --all-targets -- -D warnings
	cargo clippy --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m mypy.stubtest hubhooks._core
	$(BIN)/zizmor --offline --quiet --no-progress .github/workflows
	$(BIN)/python scripts/words.py
	$(BIN)/python scripts/page_types.py

words: $(BIN)/maturin ## Check the words of code and docs
	$(BIN)/python scripts/words.py

format: $(VENV)/linters ## Format the code
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/docs: $(VENV)/built pyproject.toml
	@echo "Installing the tools of the docs site ..."
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

docs: $(VENV)/docs ## Build the docs site into site; a warning is an error
	@echo "Building the site into site ..."
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

images: $(VENV)/docs $(VENV)/integrations ## Make the pictures of the docs; needs Chromium
	$(BIN)/python scripts/screenshot.py

# On Linux, zig links the wheel for a glibc of 2014.
ifeq ($(shell uname),Linux)
PORTABLE := --zig --compatibility manylinux2014
endif

$(VENV)/wheel: $(BIN)/maturin
	@echo "Installing the tools of the wheel ..."
	$(BIN)/python -m pip install --quiet --group wheel
	touch $@

wheel: $(VENV)/wheel ## Build the wheel and the source distribution into dist
	@echo "Building the wheel: about a minute ..."
	rm -rf dist
	PATH="$(CURDIR)/$(BIN):$$PATH" maturin build --release --quiet --compression-level 9 --out dist $(PORTABLE)
	$(BIN)/maturin sdist --out dist

wheel-check: wheel ## Install the wheel without extras, and use it
	$(PYTHON) scripts/wheel_check.py dist

wheel-suite: wheel ## Run all tests against the installed wheel
	$(PYTHON) scripts/wheel_check.py dist --suite

$(VENV)/benches: $(VENV)/built
	@echo "Installing the packages of the benchmarks ..."
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

bench: $(VENV)/benches ## Measure the core, parsing and the store
	cargo bench --no-default-features
	$(BIN)/python benches/parse.py
	$(BIN)/python benches/log.py

bench-http: $(VENV)/benches ## Measure CPU and response times of a server; needs Linux
	$(BIN)/python benches/serving.py

bench-flat: $(VENV)/benches ## Measure the memory of a million deliveries; needs Linux
	$(BIN)/python benches/flat.py

bench-dev: $(VENV)/benches ## Measure `hubhooks dev` and its page in Chromium; needs Linux
	$(BIN)/python benches/dev.py

compare: $(VENV)/benches ## Compare with other receivers, and write docs/peers.md; needs Linux
	$(BIN)/python benches/compare.py

soak: build ## Kill a server again and again for five minutes, and look for lost deliveries
	$(BIN)/python scripts/soak.py

FUZZ_SECONDS ?= 60
fuzz: ## Fuzz the core, one minute per target; needs nightly Rust and cargo-fuzz
	for target in parse oracle verify globs; do \
	  cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

clean: ## Remove everything that was built
	rm -rf $(VENV) dist site target python/hubhooks/_core.*.so python/hubhooks/_core.*.pyd
