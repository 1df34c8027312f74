# Two commands: `make demo` sets everything up and runs the main job on real data; `make test` sets everything up
# and runs the whole check. Both need Python 3.11 or newer, make and Node.js 20 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
NODE_STAMP := node_modules/.installed
SLITHER := cache/slither

.PHONY: help setup demo test test-all test-faults test-tools fuzz check format lint types fences python-tests contract-tests solhint contract-lint fashion-mnist experiments experiments-quick clean

help:
	@echo "make demo       set up, then run 4 nodes on real MNIST against a real chain"
	@echo "make test       set up, then format, lint, types, fences, Python and contract tests"
	@echo "make test-all   the same with the slow tests, and Slither on the contract (make contract-lint)"
	@echo "make test-faults        set up, then inject faults into 8 nodes on hosts of their own (FAULT=partition: that one)"
	@echo "make fuzz       set up, then fuzz the decoders of what strangers send, for a minute in all"
	@echo "make setup      only set up"
	@echo "make experiments        every missing run (hours; stop and go on), then docs/experiments.md"
	@echo "make experiments-quick  a few short runs through every table and plot, into runs/quick"

setup: $(STAMP) $(NODE_STAMP)
	@$(BIN)/python -m ledger.compile --check

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is not on PATH: install it, or say make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d: say make PYTHON=/path/to/python" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(NODE_STAMP): package.json package-lock.json
	@command -v npm >/dev/null || { echo "Node.js 20 or newer (with npm) is not on PATH: install it"; exit 2; }
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

demo: setup
	$(BIN)/fl-node demo

test: setup check
	$(MAKE) --no-print-directory python-tests contract-tests solhint

test-all: setup check test-tools
	$(BIN)/python -m pytest -m "not faults"
	$(MAKE) --no-print-directory contract-tests contract-lint

# docs/faults.md lists them; needs root, for network namespaces
test-faults: setup test-tools
	$(BIN)/python -m pytest -m faults tests/faults -k "$(FAULT)"

# status 3: they cannot be had here, and it has said which tests are left out
test-tools:
	scripts/fetch_test_tools.sh || test $$? = 3

fuzz: setup
	@$(BIN)/python -c "import atheris" || { echo "NOTHING IS FUZZED: the package atheris is missing; Linux on x86-64 has it"; exit 2; }
	$(BIN)/python -m pytest -m slow tests/network/test_fuzz.py tests/learning/test_fuzz.py

check: format lint types fences

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .
	$(BIN)/shellcheck scripts/*.sh scripts/fleet/*.sh

types:
	$(BIN)/mypy

fences:
	$(BIN)/lint-imports

python-tests:
	$(BIN)/python -m pytest -m "not slow and not faults"

contract-tests:
	npx --no-install hardhat test

solhint:
	npm run --silent lint

contract-lint: $(NODE_STAMP) $(SLITHER)/.installed solhint
	$(SLITHER)/bin/slither contracts/FederatedLedger.sol --solc scripts/solc.js --compile-force-framework solc

$(SLITHER)/.installed: contracts/slither.txt
	$(PYTHON) -m venv $(SLITHER)
	$(SLITHER)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

fashion-mnist:
	scripts/fetch_fashion_mnist.sh

# ARGUMENTS="--rows 1 2 3 --datasets mnist --processes 8" and the like: see `python -m scripts.experiments --help`
experiments: setup
	$(BIN)/python -m scripts.experiments $(ARGUMENTS)

experiments-quick: setup
	$(BIN)/python -m scripts.experiments --quick --results runs/quick/results --docs runs/quick $(ARGUMENTS)

clean:
	rm -rf .venv node_modules build dist *.egg-info cache .pytest_cache .mypy_cache .ruff_cache
