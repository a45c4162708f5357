PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help train test test-all test-gpu lint format hooks docs dist bench soak torture clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

train: $(VENV)/.installed ## Train; ARGS="precision=mixed_float16" passes overrides on
	$(BIN)/mpt train $(ARGS)

test: $(VENV)/.installed-test ## Run the tests, without the slow ones
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: $(VENV)/.installed-test ## Run all tests that this machine can, and hold coverage against its floor
	$(BIN)/coverage erase
	$(MAKE) test ARGS="--cov $(ARGS)"
	$(PYTEST) -m "slow or gpu" $(ARGS)

test-gpu: $(VENV)/.installed-test ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

torture: $(VENV)/.installed-test ## Kill training KILLS times (100) and resume it; SEED= repeats the moments
	MPT_KILLS=$(or $(KILLS),100) MPT_KILL_SEED=$(SEED) $(BIN)/python -m pytest -s tests/integration/test_killed_runs.py $(ARGS)

lint: $(VENV)/.installed-lint ## Check style, spelling, types and the direction of imports
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/mypy && $(BIN)/lint-imports

format: $(VENV)/.installed-lint ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

hooks: $(VENV)/.installed-lint ## Have git run the checks before each commit
	$(BIN)/pre-commit install

docs: $(VENV)/.installed-docs ## Build the documentation into build/site, and refuse broken links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

dist: $(VENV)/.installed-test ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m hatchling build -d dist

bench: $(VENV)/.installed ## Measure against bare Keras and PyTorch, write docs/performance.md (2 h)
	$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.installed ## Train 20,000 steps and check that nothing grows nor slows down (minutes)
	$(BIN)/python -m bench.soak $(ARGS)

clean: ## Remove the environment and what was built; runs stay
	rm -rf $(VENV) build dist .*_cache *.egg-info

# One stamp an extra, so that nothing is installed again until pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
