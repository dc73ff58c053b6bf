# Two commands: `make demo` and `make test`. Each sets itself up in .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Where the demo builds: data/demo, or data/<name of CATALOG>; FOLDER= takes another.
FOLDER ?= data/$(if $(CATALOG),$(notdir $(abspath $(CATALOG))),demo)

.DEFAULT_GOAL := help
.PHONY: help install demo example ui test pytest test-slow check format lint types imports bench quality bench-store bench-encode lock clean

help:
	@echo "make demo                      a generated shop, in to released item vectors"
	@echo "make demo CATALOG=<folder>     the same on a catalogue of yours"
	@echo "make ui [CATALOG=<folder>]     the Dagster UI on what the demo built"
	@echo "make example [FOLDER=<folder>] a small SASRec trained on what the demo built"
	@echo "make test                      lint, types, borders and every quick test"
	@echo "make test-slow                 the kill and scale tests (minutes)"
	@echo "make bench [CATALOG=<folder>]  benchmarks/pipeline.py, a JSON line per figure"
	@echo "make quality CATALOG=<folder>  benchmarks/quality.py: the vectors beside every floor (an hour, or hours)"
	@echo "make bench-store               look-ups, search, upserts, SQL beside rivals; docs/lookup.svg"
	@echo "make bench-encode              encoding beside the bare model and rivals (an hour), and at scale"

install: $(STAMP)

$(STAMP): pyproject.toml requirements.lock hatch_build.py store/_lookup.c
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Itemnest needs Python >= 3.11, and $(PYTHON) is %d.%d: make PYTHON=python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $(STAMP)

demo: install
	@$(BIN)/itemnest demo --folder "$(FOLDER)" $(if $(CATALOG),--catalog "$(CATALOG)")

example: install
	@test -d "$(FOLDER)/store" || { echo "nothing in $(FOLDER) yet: make demo first"; exit 1; }
	@$(BIN)/python examples/sasrec.py "$(FOLDER)/store"

ui: install
	@test -f "$(FOLDER)/itemnest.toml" || { echo "nothing in $(FOLDER) yet: make demo first"; exit 1; }
	@$(BIN)/itemnest ui --settings "$(FOLDER)/itemnest.toml"

test: lint types imports pytest

pytest: install
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -q -m slow

check: test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/pyright

imports: install
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks.pipeline $(if $(CATALOG),"$(CATALOG)")

quality: install
	@test -n "$(CATALOG)" || { echo "which catalogue? make quality CATALOG=<folder>"; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quality "$(CATALOG)" $(if $(PARTS),--parts $(PARTS)) $(if $(PROCESSES),--processes $(PROCESSES))

bench-store: install
	@mkdir -p data/bench
	$(BIN)/python -m benchmarks.lookup --scale data/bench/lookup.svg > data/bench/lookup.jsonl
	for n in 10000 100000 1000000; do \
	  OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search --space nested --items $$n || exit 1; \
	done > data/bench/search.jsonl
	$(BIN)/python -m benchmarks.upsert > data/bench/upsert.jsonl
	$(BIN)/python -m benchmarks.sql > data/bench/sql.jsonl
	$(BIN)/python -m benchmarks.plot data/bench/*.jsonl docs/lookup.svg
	@cat data/bench/*.jsonl

bench-encode: install
	@mkdir -p data/bench
	$(BIN)/python -m benchmarks.encode > data/bench/encode.jsonl
	$(BIN)/python -m benchmarks.scale > data/bench/scale.jsonl
	@cat data/bench/encode.jsonl data/bench/scale.jsonl

# Write requirements.lock anew from what pyproject.toml asks for today.
lock:
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(VENV)/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)/lock

clean:
	rm -rf data/demo
