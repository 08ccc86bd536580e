# Penstock's commands. Plain `make` lists them; each sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyTorch's own index of CPU builds; empty: pip's own configuration decides.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' requirements.txt)
PIP := $(BIN)/pip --disable-pip-version-check --quiet
export PYTHONPATH := $(CURDIR)

.PHONY: help demo up key test test-space test-training test-faults chromium check format bench bench-web bench-batch bench-peers bench-engine bench-serving bench-trainer bench-queue bench-idempotency bench-claims bench-eta chaos soak schemathesis starter clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/ready ## run the main job once: 32 generations through the whole stack, in a folder of its own
	@$(BIN)/python -m stack.demo

up: $(VENV)/ready ## start the stack in the foreground (HOST, PORT, VAR_DIR, MODELS, SLOTS, ...)
	@$(BIN)/python -m stack.up

key: $(VENV)/ready ## print a new API key for the running stack (make -s key; OWNER=name for a further key of that owner)
	@$(BIN)/python -m stack.key

OPENAI ?= .venv-openai
export OPENAI
# a file of requirements for each older version of the official client; the newest is in requirements-dev.txt
CLIENTS := $(patsubst tests/conformance/clients/%.txt,$(OPENAI)/%/ready,$(wildcard tests/conformance/clients/*.txt))
test: $(VENV)/ready-dev $(CLIENTS) chromium ## run the tests
	@$(BIN)/pytest

chromium:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian's chromium for the browser tests"; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; fi

SPACE ?= .venv-space
export SPACE
test-space: $(VENV)/ready-dev $(SPACE)/ready chromium ## try the page of an export in Chromium, with its own packages in .venv-space
	@$(BIN)/pytest tests/trainer/test_export_space.py

chaos: MINUTES ?= 20
soak: MINUTES ?= 60
chaos: $(VENV)/ready-dev ## faults at random on a stack under load, and a table of what came of them (MINUTES=20; ARGS="--kills-only --every 1")
	@$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) $(ARGS)

soak: $(VENV)/ready-dev ## a fault a minute at 70 % of what the stack bears; memory and open files of every process (MINUTES=60)
	@$(BIN)/python -m tests.faults.chaos --soak --minutes $(MINUTES) $(ARGS)

EXAMPLES ?= 300
schemathesis: $(VENV)/ready-dev ## draw many more requests from the OpenAPI document than the tests do (EXAMPLES, 300 of each)
	@SCHEMATHESIS_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/web/test_schemathesis.py

check: $(VENV)/ready-dev ## format, lint, types, import rules, and that migrations match the tables
	@$(BIN)/ruff format $(if $(CI),--check) .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m stack.drift

bench: $(VENV)/ready-dev ## run the benchmarks and print ratios
	@$(BIN)/python -m bench.stack

bench-batch: $(VENV)/ready-dev ## a batch of 5,000 and of 50,000 lines on an engine that answers at once
	@$(BIN)/python -m bench.batch $(ARGS)

bench-web: $(VENV)/ready-dev ## what one web process takes and holds, over an empty route (ARGS="--only held")
	@$(BIN)/python -m bench.web $(ARGS)

bench-claims: $(VENV)/ready-dev ## what claims, places in the queue and creates cost behind 100 to 1,000,000 jobs (ARGS)
	@$(BIN)/python -m bench.claims $(ARGS)

bench-eta: $(VENV)/ready-dev ## how often jobs end by the times that they are told (ARGS="--loads 0.7 0.9 --seconds 120")
	@$(BIN)/python -m bench.eta $(ARGS)

bench-idempotency: $(VENV)/ready-dev ## cut 10,000 creates, send them again as the client does, and count duplicates and losses
	@$(BIN)/python -m bench.idempotency

PEERS ?= .venv-peers
export PEERS
bench-peers: $(PEERS)/ready ## install the engines that Penstock is compared with into .venv-peers (builds llama.cpp)

bench-engine: $(VENV)/ready-dev $(PEERS)/ready ## the engine against its peers, in-process (ARGS="--only penstock openvino --rounds 3")
	@$(BIN)/python -m bench.engine $(ARGS)

bench-serving: $(VENV)/ready-dev $(PEERS)/ready ## the whole stack over HTTP against engines in-process (ARGS)
	@$(BIN)/python -m bench.serving $(ARGS)

STARTER ?= var/starter
starter: $(VENV)/ready ## train the starter model again, as a fine-tuning job, into var/starter/model (ARGS="--epochs 7")
	@$(BIN)/python -m stack.starter --out $(STARTER) $(ARGS)
	@$(BIN)/python -m trainer.starter.export $(STARTER)/exported --job $(STARTER)/job.json --out $(STARTER)/model
	@$(BIN)/python -m trainer.starter.evaluate --model $(STARTER)/model

clean: ## remove the virtual environments; var/ stays
	rm -rf $(VENV) $(PEERS) $(OPENAI) $(SPACE) $(TRAINER_PEERS) $(QUEUE_PEERS)

TRAINER_PEERS ?= .venv-trainer-peers
export TRAINER_PEERS
bench-trainer: $(VENV)/ready-dev $(TRAINER_PEERS)/ready ## training against a plain loop and padded lines, in an environment of their own (ARGS="--rounds 3")
	@$(BIN)/python -m bench.trainer $(ARGS)

$(TRAINER_PEERS)/ready: bench/requirements-trainer-peers.txt
	@$(PYTHON) -m venv $(TRAINER_PEERS)
	@$(TRAINER_PEERS)/bin/pip --disable-pip-version-check --quiet install --retries 1 --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(TRAINER_PEERS)/bin/pip --disable-pip-version-check --quiet install -r $<
	@touch $@

QUEUE_PEERS ?= .venv-queue-peers
export QUEUE_PEERS
bench-queue: $(VENV)/ready-dev $(QUEUE_PEERS)/ready ## jobs that do nothing, beside plain Celery and procrastinate, in an environment of their own (ARGS="--rounds 5")
	@$(BIN)/python -m bench.queue $(ARGS)

$(QUEUE_PEERS)/ready: bench/requirements-queue-peers.txt
	@$(PYTHON) -m venv $(QUEUE_PEERS)
	@$(QUEUE_PEERS)/bin/pip --disable-pip-version-check --quiet install -r $<
	@touch $@

KILLS ?= 20
test-training: $(VENV)/ready-dev ## the slow tests of training: 20 kills at random moments (KILLS), two hosts, a killed trainer on the real stack
	@TRAINING_KILLS=$(KILLS) $(BIN)/pytest -s -m slow tests/trainer tests/end_to_end

test-faults: $(VENV)/ready-dev ## every row of the fault matrix that a test shows, the slow ones too (docs/promises.md)
	@$(BIN)/pytest -m "slow or not slow" tests/faults tests/worker/test_cancel.py

$(VENV)/packages: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Penstock needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		else echo "Python's venv module is missing. Install it first: sudo apt install python3-venv"; exit 1; fi; }
	@echo "installing Python packages into $(VENV) (once, a few minutes)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --retries 1 --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(PIP) install -r requirements.txt
	@touch $@

# without a C++ compiler or AVX512-VNNI this says so, and torch's operators serve
$(VENV)/ready: $(VENV)/packages $(wildcard worker/kernels/*.h worker/kernels/*.cpp worker/kernels/sources.py)
	@$(BIN)/python -m worker.kernels.build
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(SPACE)/ready: trainer/space/requirements.txt
	@echo "installing what the page of an export needs into $(SPACE) (once, a few minutes)" >&2
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip --disable-pip-version-check --quiet install --retries 1 --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(shell sed -n 's/^\(torch==.*\)/\1/p' trainer/space/requirements.txt)'
	@$(@D)/bin/pip --disable-pip-version-check --quiet install -r $<
	@touch $@

$(OPENAI)/%/ready: tests/conformance/clients/%.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip --disable-pip-version-check --quiet install -r $<
	@touch $@

# torchvision, which optimum-intel asks for, is for pictures, and one that was built for another torch breaks transformers
$(PEERS)/ready: bench/requirements-peers.txt
	@command -v c++ >/dev/null || { echo "llama.cpp is built here and needs a C++ compiler. Install one first: sudo apt install g++"; exit 1; }
	@echo "installing the peers into $(PEERS) (once, a few minutes; it builds llama.cpp)" >&2
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip --disable-pip-version-check --quiet install --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@CMAKE_ARGS="-DGGML_NATIVE=ON" $(PEERS)/bin/pip --disable-pip-version-check --quiet install --no-binary llama-cpp-python -r $<
	@$(PEERS)/bin/pip --disable-pip-version-check --quiet uninstall --yes torchvision
	@touch $@
