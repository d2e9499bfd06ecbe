# make demo   set up, compile the demo model, generate text
# make test   set up, run all tests, two files at a time
# make test-all-pythons   the linters and all tests on every supported Python of this machine
# make lint   set up, ruff, mypy
# make fuzz   set up, mutated input of every kind against the product
# make kills  set up, kill every kind of process at random moments and look what is left (1 hour)
# make numerics   set up, verify the demo models in every precision and degree, compare with the golden figures
# make numerics-update   the same, and rewrite the golden figures and the tables in docs/numerics.md
# make bench  set up, measure every figure of docs/kernels.md and docs/runtime.md and rewrite their tables (10 minutes)
# make hooks  set up, run the linters before every commit

VENV ?= .venv
PYTHON ?= python3
CONFIG ?= build_in/build/hf_baichuan_int8.yaml
TORCH_INDEX ?=
ARGS ?=
PROMPT ?= The capital of France
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

.PHONY: setup demo test test-all-pythons fuzz kills numerics numerics-update bench lint hooks clean
.DEFAULT_GOAL := demo

setup: $(SETUP)

# torch comes first and alone: a range of versions could pull a newer one with gigabytes of CUDA packages. Where the
# package index serves CUDA builds of this version too, TORCH_INDEX names an index of CPU builds.
$(SETUP): pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) else f"vamc needs Python 3.10 to 3.12; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX:%=--index-url %) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[compiler,mpi,dev]'
	touch $@

demo: $(SETUP)
	$(BIN)/vamc compile $(CONFIG) --set workspace.path=vacc_deploy --set name=demo
	$(BIN)/vamc inspect vacc_deploy/demo
	$(BIN)/vamc run vacc_deploy/demo --prompt "$(PROMPT)"

test: $(SETUP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all-pythons:
	.ci/all_pythons

# ARGS='yaml --seed 7' for a part of it.
fuzz: $(SETUP)
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

# ARGS='--kills 5 --only rank' for a part of it.
kills: $(SETUP)
	$(BIN)/vamc compile build_in/build/hf_llama_fp16.yaml --set workspace.path=vacc_deploy --set name=kills-tp1
	$(BIN)/vamc compile build_in/build/hf_baichuan_int8.yaml --set workspace.path=vacc_deploy --set name=kills-tp2
	PYTHONPATH=tests/e2e $(BIN)/python -m kills vacc_deploy/kills-tp1 vacc_deploy/kills-tp2 \
		--config build_in/build/hf_baichuan_int8.yaml $(ARGS)

# ARGS='--model llama-mini --tp 2' for a part of it; ARGS=--help for all options.
numerics: $(SETUP)
	PYTHONPATH=tests $(BIN)/python -m golden $(ARGS)

numerics-update: $(SETUP)
	PYTHONPATH=tests $(BIN)/python -m golden --update $(ARGS)
	PYTHONPATH=tests:tests/numerics $(BIN)/python -m mutation_table

# On a machine that does nothing else; ARGS='--only attention' for a part of it.
bench: $(SETUP)
	$(BIN)/python benchmarks/kernels.py --write $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for file in $$(git ls-files 'tests/*conftest.py'); do $(BIN)/mypy $$file || exit 1; done

hooks: $(SETUP)
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) vacc_deploy build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
