# make demo   tune a real 135 M parameter chat model and report before / after (70 minutes)
# make test   the whole test suite
# make test-fast  a part of every room, in about a minute: while you work
# make bench  attribution and generation beside torch, and what options cost (JSON, a quarter hour)
# make test-export   adapters by PEFT, GGUF by llama.cpp, cards, on tiny models and SmolLM2
# make test-web   the report and the site in Chromium, at two widths, light and dark (apt install chromium)
# make site   the documents and the API as a site in build/site
# make bench-h100  time and memory of the hot programs on H100s, compiled without one
# make test-faults   damaged input, kills, full disks: docs/reliability.md (-long: 10,000 inputs)
# make test-procs  two real processes carry one run, one is killed: docs/scaling.md (-slow: four, fsdp)
# All make their own environment in .venv from Python 3.11 or newer; nothing else is needed.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
LOCKED := $(PIP) --no-deps --require-hashes -r
OURS := $(PIP) --no-deps --no-build-isolation -e .
# An oracle of the tests; which build fits depends on the machine, so its range alone is stated.
TORCH := torch>=2.6,<3
# Of every room the files that compile little.
FAST := $(addprefix tests/,config/test_load.py data/test_attacks.py data/test_batching.py \
  models/test_attention.py models/test_footprint.py models/test_rope.py baselines/test_states.py \
  attribution/test_select.py train/test_safety_targets.py train/test_theta.py \
  generate/test_schedule.py generate/test_slots.py eval/test_prompts.py \
  export/test_factors.py report/test_panels.py run/test_dry_run.py test_architecture.py test_cli.py test_cli_endings.py test_mesh.py \
  test_rundir.py test_taken_over.py)
COMPILE := $(BIN)/uv pip compile pyproject.toml - --universal --generate-hashes --no-header --no-annotate -q

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-lm-eval test-inspect test-export test-faults test-faults-long test-procs test-procs-slow test-web site bench bench-h100 check lock clean

help:
	@sed -n '1,11p' Makefile | sed 's/^# //'

demo: .venv/.runtime
	@$(BIN)/python -W ignore -m nt_jax.train --config smollm2-135m

test: .venv/.test
	@$(BIN)/python -W ignore -c 'import jax, torch; print(f"jax {jax.__version__}, torch {torch.__version__}")'
	@TIMEFORMAT='make test: %0R s'; time $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q

test-fast: .venv/.test
	@TIMEFORMAT='make test-fast: %0R s'; time $(BIN)/python -m pytest -n 2 -q $(FAST)

test-slow: .venv/.test
	$(BIN)/python -m pytest -q -m slow

test-faults: .venv/.test
	@TIMEFORMAT='make test-faults: %0R s'; time $(BIN)/python -W ignore -m tests.faults

test-faults-long: .venv/.test
	@TIMEFORMAT='make test-faults-long: %0R s'; time $(BIN)/python -W ignore -m tests.faults --long

test-procs: .venv/.test
	@TIMEFORMAT='make test-procs: %0R s'; time $(BIN)/python -m pytest -n 0 -q -m "procs and not slow" tests/processes

test-procs-slow: .venv/.test
	@TIMEFORMAT='make test-procs-slow: %0R s'; time $(BIN)/python -m pytest -n 0 -q -m procs tests/processes

bench: .venv/.test
	$(BIN)/python -W ignore benchmarks/attribution.py --json
	$(BIN)/python -W ignore benchmarks/attribution_options.py --json
	$(BIN)/python -W ignore benchmarks/generation.py --json

# MARK=slow leaves out what `make test` runs as well.
test-export: MARK = slow or not slow
test-export: .venv/.test
	@TIMEFORMAT='make test-export: %0R s'; time $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q -m "$(MARK)" tests/export tests/run/test_card.py

test-web: .venv/.test
	@TIMEFORMAT='make test-web: %0R s'; time $(BIN)/python -m pytest -n 0 -q -rs -m web tests/web

site: .venv/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench-h100: .venv/.runtime
	$(BIN)/python -W ignore benchmarks/h100.py --json

test-lm-eval: .venv/.test
	@sed -n 's/ *\\$$//; /^[a-z].*==/p' requirements-test.lock > .venv/constraints
	@$(PIP) -c .venv/constraints --no-build-isolation -e '.[lm-eval]'
	$(BIN)/python -m pytest -q tests/eval/test_lm_eval.py tests/run/test_harness.py

# inspect_ai wants an older fsspec and dateutil than the lock has; `make test` brings those back.
test-inspect: .venv/.test
	@sed -n 's/ *\\$$//; /^fsspec==/d; /^python-dateutil==/d; /^[a-z].*==/p' requirements-test.lock > .venv/constraints
	@$(PIP) -c .venv/constraints --no-build-isolation -e '.[inspect]'
	@rm .venv/.test
	$(BIN)/python -m pytest -q tests/eval/test_inspect_model.py

check: .venv/.test
	$(BIN)/ruff format --check nt_jax tests benchmarks examples
	$(BIN)/ruff check nt_jax tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/lint-imports

# The first lines of each file are comments, which stay. torch's own libraries go with it.
lock: .venv/.test
	echo 'hatchling>=1.27' | $(COMPILE) > .venv/lock
	{ sed -n '1,2p' requirements.lock; cat .venv/lock; } > .venv/lock2 && mv .venv/lock2 requirements.lock
	sed -n 's/ *\\$$//; /^[a-z].*==/p' requirements.lock > .venv/constraints
	echo 'hatchling>=1.27' | $(COMPILE) --extra test --extra docs --extra web --extra dev --no-emit-package torch -c .venv/constraints \
	  | awk '/^[^ ]/ {keep = !/^(nvidia|triton|cuda)/} keep' > .venv/lock
	{ sed -n '1,2p' requirements-test.lock; cat .venv/lock; } > .venv/lock2 && mv .venv/lock2 requirements-test.lock

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "nt_jax: needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..."; exit 2; }
	@echo "nt_jax: making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python pyproject.toml requirements.lock requirements-demo.txt
	@echo "nt_jax: installing packages (once, about 700 MB)"
	@$(LOCKED) requirements.lock
	@$(LOCKED) requirements-demo.txt
	@$(OURS)
	@touch $@

.venv/.test: .venv/.runtime requirements-test.lock
	@echo "nt_jax: installing test packages (once)"
	@$(LOCKED) requirements-test.lock
	@$(PIP) '$(TORCH)'
	@touch $@

clean:
	rm -rf .venv dist build site
