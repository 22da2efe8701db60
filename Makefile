# make book | slides | pdf | check-book | exercises | test | soundness | faults | fuzz
# | lint | format | clean | lock | notebook | venv | hashes | audit | sbom; see CONTRIBUTING.md
PYTHON ?= python3
PRESET ?= book
EDITION ?= instructor
VENV := .venv
BIN := $(VENV)/bin
TOOLS := _build/tools
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book slides pdf check-book exercises test soundness faults fuzz lint format
.PHONY: clean lock notebook venv hashes audit sbom
.DEFAULT_GOAL := book

# The environment is made on the first call and again when a pin changes. With LOCKED=1,
# on Linux x86-64 with Python 3.11, it is emptied first and takes only wheels with the
# hashes of requirements.lock; what is installed already pip would not compare with them.
ifdef LOCKED
STAMP := $(VENV)/.installed-locked
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: \
	  -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
else
STAMP := $(VENV)/.installed
$(STAMP): requirements.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@
endif

# make venv [LOCKED=1]
venv: $(STAMP)

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
	OMP_NUM_THREADS=1 $(BIN)/python tests/soundness/long_run.py

# Fifty kills and what else takes long: some minutes on two idle cores.
faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/test_faults.py

# make fuzz [T=60] [READERS="votes pictures"]: seconds for each, in an environment that
# has the fuzzer beside all that the tests have.
FUZZ := _build/fuzz-env
fuzz: $(STAMP)
	test -x $(FUZZ)/bin/python || $(BIN)/python -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --only-binary :all: atheris==3.0.0
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(FUZZ)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth
	OMP_NUM_THREADS=1 $(FUZZ)/bin/python tests/fuzz/run.py --seconds $(or $(T),60) $(READERS)

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

# make notebook NOTEBOOK=02_neyman_pearson P="-p alpha 0.05" [PRESET=smoke]
notebook: $(STAMP)
	$(BIN)/python book/build.py notebook $(NOTEBOOK) --preset $(PRESET) $(P)

# Resolves requirements.txt anew, in an environment of its own, and looks up the hashes.
lock:
	rm -rf _build/lock
	$(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install --quiet --upgrade setuptools -r requirements.txt
	( echo '# The full resolution of requirements.txt, written by `make lock`. CUDA wheels are left' && \
	  echo '# out: which of them are needed depends on the platform.' && \
	  _build/lock/bin/python -m pip freeze --all | grep -vE '^(nvidia-|cuda-|triton==|pip==)' ) > constraints.txt
	rm -rf _build/lock
	$(MAKE) hashes

# The same resolution with hashes, for one platform, whose CUDA wheels are part of it.
hashes: $(TOOLS)/.installed
	$(TOOLS)/bin/uv pip compile requirements.txt --constraint constraints.txt --quiet \
	  --generate-hashes --only-binary :all: --no-header --no-annotate --no-config \
	  --python-version 3.11.5 --python-platform x86_64-manylinux_2_28 \
	  --output-file _build/requirements.lock
	( echo '# The resolution of constraints.txt with the hashes of its wheels, written by `make lock`.' && \
	  echo '# It holds for Linux x86-64 with Python 3.11, from 3.11.5; see `make venv LOCKED=1`.' && \
	  cat _build/requirements.lock ) > requirements.lock

# What looks at the environment is not part of it.
$(TOOLS)/.installed: requirements-audit.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet -r $<
	touch $@

# Known vulnerabilities of what requirements.lock pins; asks a service on the network.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip \
	  -r requirements.lock

# The packages of the environment, as CycloneDX, checked against its schema.
sbom: $(STAMP) $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-format JSON --validate --output-file _build/sbom.json $(BIN)/python

clean:
	rm -rf _build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
