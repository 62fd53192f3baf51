# Everything a developer or a user runs. `make demo` and `make test` set up what they need on a machine that has
# nothing but Python, make and git.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two cores are the smallest machine keystep is tested on; Ray gives a worker of one CPU one thread.
export OMP_NUM_THREADS ?= 2
export RAY_CHDIR_TO_TRIAL_DIR ?= 0
# Without bytecode every worker of every search would compile torch again, for half a minute.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all browser lint bench docs notebooks notebooks-small ui clean

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/keystep search shapes-sd --out out/demo/step_config.json --sheet out/demo/before_after.png
	$(BIN)/keystep report shapes-sd --out out/demo/report.html > /dev/null

test: lint
	$(BIN)/python -m pytest --quiet

test-all: lint
	$(BIN)/python -m pytest --quiet -m "not gpu"

browser: $(READY)
	$(BIN)/python -m pytest --quiet -m browser

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_core
	$(BIN)/python -m tests.benchmarks.bench_rescore

docs: $(READY)
	PDOC_ALLOW_EXEC=1 $(BIN)/python -m pdoc --docformat google keystep keystep.core keystep.evaluation \
		keystep.search keystep.cluster --output-directory site

notebooks: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m nbconvert --to notebook --execute --log-level WARN \
		--output-dir out/notebooks notebooks/*.ipynb

notebooks-small: $(READY)
	$(BIN)/python -m pytest --quiet -m slow tests/test_notebooks.py -k small

ui: $(READY)
	$(BIN)/keystep ui

clean:
	rm -rf .venv build dist out site *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
