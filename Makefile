# make book | slides | pdf | check-book | exercises | test | soundness | lint | format
# | clean | lock | notebook; see CONTRIBUTING.md
PYTHON ?= python3
PRESET ?= book
EDITION ?= instructor
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book slides pdf check-book exercises test soundness lint format clean lock notebook
.DEFAULT_GOAL := book

# The environment is made on the first call and again when a pin changes.
$(STAMP): requirements.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# make book [PRESET=book|smoke|paper] [EDITION=instructor|student]
book: $(STAMP)
	$(BIN)/python book/build.py build --preset $(PRESET) --edition $(EDITION)

# Decks for each part, in the folder slides of the book.
slides: $(STAMP)
	$(BIN)/python book/build.py slides --preset $(PRESET) --edition $(EDITION)

# The whole book as one PDF; needs Chromium.
pdf: $(STAMP)
	$(BIN)/python book/build.py pdf --preset $(PRESET) --edition $(EDITION)

# Every page and slide in a browser: links, access, weight. Needs Chromium.
check-book: $(STAMP)
	$(BIN)/python book/build.py check --preset $(PRESET) --edition $(EDITION)

# The assignments with their checkers, for students and for graders.
exercises: $(STAMP)
	$(BIN)/python book/build.py exercises

# make test [T="tests/test_radii.py -k multi"]
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup $(T)

# Every strategy against known truths, at length; writes notebooks/data/soundness.json.
soundness: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soundness/run.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Formats the code of the notebooks too, and takes it back into their sources.
format: $(STAMP)
	$(BIN)/python book/build.py generate
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python book/build.py adopt

# make notebook NOTEBOOK=02_neyman_pearson P="-p alpha 0.05"
notebook: $(STAMP)
	$(BIN)/python book/build.py notebook $(NOTEBOOK) $(P)

# Resolves requirements.txt anew, in an environment of its own.
lock:
	rm -rf _build/lock
	$(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install --quiet -r requirements.txt
	( echo '# The full resolution of requirements.txt, written by `make lock`. CUDA wheels are left' && \
	  echo '# out: which of them are needed depends on the platform.' && \
	  _build/lock/bin/python -m pip freeze | grep -vE '^(nvidia-|cuda-|triton==)' ) > constraints.txt
	rm -rf _build/lock

clean:
	rm -rf _build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
