# `make demo` and `make test` need Python 3.11 and make, nothing else: they build .venv on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow test-all test-gpu matrix mutate bench docs lint release clean

demo: $(STAMP)
	$(BIN)/python examples/face_morph.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu"

# what `make test` leaves out; the tests for a GPU are taken where there is one
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "$(if $(shell command -v nvidia-smi),slow or gpu,slow and not gpu)"

# the laws that matter on a device, on the CPU and on CUDA; without a CUDA device that half is skipped
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "device and (gpu or not slow)"

test-all: test test-slow

# tests against the installed wheel, in a fresh environment for each interpreter and torch, into benchmarks/results/matrix.json;
# LIMIT is in MB of one torch wheel, ARGS=--whole takes every fast test of the three rooms
PYTHONS ?= python3.11 python3.12 python3.13
TORCHES ?= 2.8.0 2.9.1 2.13.0
LIMIT ?= 400
matrix: $(STAMP)
	$(BIN)/python tests/support/matrix.py --pythons $(PYTHONS) --torches $(TORCHES) --limit $(LIMIT) $(ARGS)

# does a law notice? COUNT changes drawn at random from FILES, each alone, in a scratch copy; survivors in out/mutants
FILES ?= solvers adjoint guidance
COUNT ?= 20
SEED ?= 0
mutate: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[mutation]"
	$(BIN)/python -W ignore tests/support/mutation.py $(FILES) --count $(COUNT) --seed $(SEED)

# this library beside its peers, at most 25 minutes on two quiet cores; writes benchmarks/results and docs/benchmarks.md
bench: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[peers]"
	$(BIN)/python benchmarks/bench.py

# the site in out/site, strict: a warning or a dead link is an error
docs: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/site.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# one version everywhere, clean tree, wheel and sdist in out/dist, tests against the wheel; ARGS=--tag sets the tag
release: $(STAMP)
	.ci/release $(ARGS)

# torch comes first and alone, pinned: an unpinned one pulls gigabytes
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "got $$($(PYTHON) --version), expected Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[examples,dev,rewards,train,faces,diffusers]"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps deepinv
	touch $@

clean:
	rm -rf .venv build out *.egg-info
