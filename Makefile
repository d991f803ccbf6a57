# `make help` lists what there is. What CI runs is `make check`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := volume runtime storage_node db_instance control_plane sixfold bench
SEED ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help up down test check fmt fmt-check lint types proto proto-check sim sim-long sim-bugs kill-loop rolling chaos bench bench-peer bench-further bench-volume bench-repair bench-recovery clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

$(VENV)/ready: pyproject.toml
	@PYTHON=$(PYTHON) deploy/make-venv.sh $(VENV)
	@touch $@

up: $(VENV)/ready          ## a running database: six storage nodes in three zones, control plane, writer
	@$(BIN)/sixfold up --detach

down: $(VENV)/ready        ## stop it
	@$(BIN)/sixfold down

test: $(VENV)/ready        ## unit tests, simulation seeds, and a real cluster on loopback: below five minutes
	@$(BIN)/python -m pytest

check: fmt-check lint types proto-check test   ## exactly what CI runs

fmt: $(VENV)/ready         ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

fmt-check: $(VENV)/ready   ## is it formatted?
	@$(BIN)/ruff format --check .

lint: $(VENV)/ready        ## ruff
	@$(BIN)/ruff check .

types: $(VENV)/ready       ## mypy, strict
	@$(BIN)/mypy $(PACKAGES)

proto: $(VENV)/ready       ## generate the code of proto/
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --mypy_out=quiet:. proto/*.proto

proto-check: $(VENV)/ready ## is the generated code that of proto/?
	@$(BIN)/python -m grpc_tools.protoc -I. --descriptor_set_out=/dev/null proto/*.proto
	@out=$$(mktemp -d) && $(BIN)/python -m grpc_tools.protoc -I. --python_out=$$out proto/*.proto && \
	  for f in $$out/proto/*_pb2.py; do cmp $$f proto/$$(basename $$f) || { echo "run make proto"; exit 1; }; done; rm -r $$out

sim: $(VENV)/ready         ## one simulation seed again: make sim SEED=4711
	@$(BIN)/python -m tests.simulation --seed $(SEED)

sim-long: $(VENV)/ready    ## new simulation seeds until stopped
	@$(BIN)/python -m tests.simulation --forever

sim-bugs: $(VENV)/ready    ## deliberate bugs in the real code, each of which a seed must find
	@$(BIN)/python -m tests.simulation.bugs $(ARGS)

kill-loop: $(VENV)/ready   ## kill -9 of every process in mid-load, fifty times: make kill-loop ARGS="--rounds 5"
	@$(BIN)/python -m tests.cluster.kill_loop $(ARGS)

chaos: $(VENV)/bench-ready ## torment in network namespaces, as root: make chaos ARGS="--minutes 2 --seed 7"
	@$(BIN)/python -m tests.chaos $(ARGS)

rolling: $(VENV)/ready     ## an older release gives way to this one under load: make rolling ARGS="--from HEAD~20"
	@$(BIN)/python -m tests.cluster.rolling $(ARGS)

bench: $(VENV)/bench-ready bench-peer   ## this database and PostgreSQL, same work, one run: make bench ARGS=--quick
	@$(BIN)/python -m bench.run $(ARGS)

bench-further: $(VENV)/bench-ready bench-peer   ## COPY, a small cache, many connections, cores, latency: make bench-further ARGS="--only copy"
	@$(BIN)/python -m bench.further $(ARGS)

bench-volume: $(VENV)/ready   ## this database at 10 MB, 1 GB, 5 GB: make bench-volume ARGS="--sizes 50MB"
	@$(BIN)/python -m bench.volume $(ARGS)

bench-repair: $(VENV)/ready   ## a lost segment made anew, beside cp and fsync: make bench-repair ARGS="--size 500MB"
	@$(BIN)/python -m bench.repair $(ARGS)

bench-recovery: $(VENV)/ready ## kill -9 of the writer under load, until the first commit
	@$(BIN)/python -m bench.recovery $(ARGS)

bench-peer:      ## install PostgreSQL 15 for `make bench`, if it is missing (as root)
	@bench/install-peer.sh

$(VENV)/bench-ready: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' && touch $@ || \
	  echo "matplotlib could not be installed: there will be no plot"

clean: down      ## stop the cluster; remove what was built, keep .sixfold
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
