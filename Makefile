# Every target can be called again at any time, and needs nothing but git, make and a supported Python.
# The first supported one on the path; `make setup PYTHON=...` names another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
# The package is installed where it lies; nothing else has to be on the path.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

STREAMS := flows stack servers data networks units

.PHONY: setup demo touched test $(STREAMS:%=test-%) test-long kills chaos nodes bench gpu pythons lint up down docs notebooks

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(or $(wildcard $(BIN)/python),$(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || \
	{ echo 'PanGu needs Python 3.11, 3.12 or 3.13: $(or $(wildcard $(BIN)/python),$(PYTHON),what is on the path) is none of them. Install one, or name it: make setup PYTHON=...'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch with what its build for this machine needs; all else is in the list, so that nothing is left to find out.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints.txt -e .
	$(BIN)/python infra/check_install.py
	touch $@

demo: $(STAMP)
	$(BIN)/pangu demo

up: $(STAMP)
	$(BIN)/pangu up

down: $(STAMP)
	$(BIN)/pangu down

# Everything but what takes long, in streams side by side; tests/streams.py says which.
test: $(STAMP)
	@$(BIN)/python -m tests.streams

$(STREAMS:%=test-%): test-%: $(STAMP)
	@$(BIN)/python -m tests.streams $*

# The tests that import what changed since main; `make touched BASE=...` names another point.
touched: $(STAMP)
	@tests=$$($(BIN)/python -m tests.touched $(or $(BASE),main)); test -z "$$tests" || $(BIN)/python -m pytest $$tests

# What takes long: half an hour more.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# A hundred times `kill -9` at seeded moments of every stage from ingest to encode; `make test-long` does a few.
kills: $(STAMP)
	PANGU_KILLS=100 $(BIN)/python -m pytest -m long tests/data/test_kills.py

# Three machines on one box: every stage across them, and what faults cost. Linux; ten minutes on two free cores.
nodes: $(STAMP)
	$(BIN)/python -m tests.nodes

# A hundred faults of every kind while the whole main job runs, and a table; PANGU_CHAOS_FAULTS, _SEED, _SECONDS and _ONLY choose.
chaos: $(STAMP)
	$(BIN)/python -m tests.faults.chaos

# One claim a script; two hours on two cores. `benchmarks/loader.py` needs the extra `bench`, see there.
bench: $(STAMP)
	for claim in train_overhead coop coop_fresh_noise efficiency_ledger admission ingest upscale prepare_scale whole_way few_steps own_subject serve serve_replicas; do $(BIN)/python benchmarks/$$claim.py || exit 1; done

# Tests and benchmarks that need a GPU, on one card in eight minutes, and a table; says "not run" where there is none.
gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

# Every supported Python on the path, each in a fresh clone: setup and demo; half an hour on two cores. See the script for others.
pythons:
	infra/every_python.sh demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in var/site/html: opens from the disk. Warnings are errors, and every link is followed.
docs: $(STAMP) .venv-docs/.installed
	$(BIN)/python -m infra.site.reference var/site/reference
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --quiet --clean
	$(BIN)/python -m infra.site.check var/site/html

# Runs the notebooks from top to bottom and keeps what they show; ten minutes on two cores.
notebooks: $(STAMP) .venv-docs/.installed
	.venv-docs/bin/python -m infra.site.run_notebooks $(abspath $(BIN)/python) notebooks/draw_and_cooperate.ipynb notebooks/your_own_pictures.ipynb notebooks/judge_a_pair.ipynb

.venv-docs/.installed: infra/site/requirements.txt constraints.txt
	test -x .venv-docs/bin/python || $(BIN)/python -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r infra/site/requirements.txt
	touch $@
