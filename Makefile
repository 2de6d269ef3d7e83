# Front doors: make demo · make test · make test-all · make test-slurm · make bench · make docs
# Needs Python >= 3.11 (named by PYTHON) and make; everything else is installed into .venv/ from the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")
LOCKS := envs/requirements.lock envs/requirements-nodeps.lock
STAMP := $(VENV)/.installed
DEMO := ising digits cosine
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

# the tests have as many workers as cores, each of one thread
ONE_THREAD := OMP_NUM_THREADS=1 NPROC=1

.PHONY: env env-gpu demo test test-all test-slurm bench docs lint lock clean-env
.DEFAULT_GOAL := demo

env: $(STAMP)

$(STAMP): $(LOCKS) pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3.11')"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/requirements-nodeps.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# jax and torch with CUDA in a fresh environment, $(VENV)-gpu
env-gpu:
	test -x $(VENV)-gpu/bin/python || $(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check -r envs/requirements-gpu.lock
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/requirements-nodeps.lock
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .

# In a terminal `emeq run` shows how far a study is; elsewhere it is Snakemake, and nothing else.
demo: $(STAMP)
	@for study in $(DEMO); do \
	  $(BIN)/emeq run config/$$study.yaml --cores $(CORES) && \
	  $(SNAKEMAKE) --quiet all --configfile config/$$study.yaml --report results/$$study/snakemake-report.html || exit 1; \
	done
	@echo; for study in $(DEMO); do echo "report: results/$$study/report.html"; done

test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder -m "not slow and not benchmark"

test-all: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder -m "not benchmark"

# only those on a private SLURM, its packages installed first (root)
test-slurm: $(STAMP)
	$(BIN)/python -m tests.slurm.cluster install
	$(BIN)/python -m pytest tests/slurm

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s

docs: $(STAMP)
	$(BIN)/emeq schema
	$(BIN)/python -m tests.scale.page
	$(BIN)/python -m sphinx -b html -c docs -E -W --keep-going -q . docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python -m tests.text_files

# envs/requirements.lock from what is installed in .venv (envs/lock.py)
lock:
	$(BIN)/python envs/lock.py

clean-env:
	rm -rf $(VENV)
