# Every target works in a fresh clone: it builds .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Two workers with one thread each: torch would otherwise start one thread per core in both. The
# demo's tensors are so small that more threads only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo study test test-slow test-benchmarks lint types docs clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/transpike demo -o demo-output

# A small grid of conversions with the weights of the zoo; needs CIFAR-10 at .data/cifar10.npz.
study: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/transpike study run benchmarks/study/small.yaml -o study-output --workers 2

test: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-benchmarks: $(STAMP)
	$(PYTEST) benchmarks/tests $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The site comes to lie in build/site; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(STAMP): requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf demo-output study-output dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
