# The project's commands. Each does its own set-up: PostgreSQL is found, or installed by the programs that need it.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
export PYTHONDONTWRITEBYTECODE := 1

PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
DEBUG := $(TARGET)/debug
BENCH := $(TARGET)/bench
BENCH_EVENTS ?= 200000

# One set of optimized artifacts for every target: a selection of packages would build their dependencies with its own features.
RELEASE := cargo build --release --workspace

# The test runner; cargo's own where nextest is not installed.
RUN_TESTS = $(shell cargo nextest --version >/dev/null 2>&1 && echo cargo nextest run --workspace || echo cargo test --workspace)

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{ printf "  make %-13s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## The whole chain, ending with an invoice and a live API; LOGS=DIR reads your logs, ARGS=--exit leaves after the invoice
	$(RELEASE) --bin securebase
	$(TARGET)/release/securebase demo $(if $(LOGS),--logs "$(LOGS)") $(ARGS)

.PHONY: test
test: build test-oracle test-doc test-replay ## Every test, with real PostgreSQL and embedded servers
	$(DEBUG)/with-postgres $(RUN_TESTS)

.PHONY: build
build:
	cargo build --workspace --bins

.PHONY: test-oracle
test-oracle: ## The naive recount against the fixtures
	$(PYTHON) checks/fixtures_agree.py

.PHONY: test-doc
test-doc:
	cargo test --doc --workspace --quiet

.PHONY: test-replay
test-replay: build ## The program against the naive recount, on the fixtures: again, shuffled, four at once, killed
	$(PYTHON) checks/real_data.py $(DEBUG)/securebase fixtures

.PHONY: test-real
test-real: ## The same on real events: EVENTS=DIR, a folder that holds a folder cloudtrail
	@test -n "$(EVENTS)" || { echo "make test-real needs EVENTS=DIR, a folder that holds a folder cloudtrail of log objects" >&2; exit 2; }
	@test -d "$(EVENTS)" || { echo "make test-real: EVENTS=$(EVENTS) is not a folder" >&2; exit 2; }
	@$(MAKE) build
	$(PYTHON) checks/real_data.py $(DEBUG)/securebase "$(EVENTS)"

.PHONY: test-api
test-api: build ## The running server against its OpenAPI document, by a generated client and schemathesis; EXAMPLES=20
	$(PYTHON) checks/api_contract.py $(DEBUG)/securebase $(TARGET)/api-tools --examples $(or $(EXAMPLES),20)

.PHONY: test-sqlmap
test-sqlmap: build ## sqlmap on every parameter of the customers' routes; takes some twenty minutes
	$(PYTHON) checks/api_contract.py $(DEBUG)/securebase $(TARGET)/api-tools --sqlmap

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint: ## Clippy with warnings denied, and the build without the local platform
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check -p securebase --no-default-features

.PHONY: doc
doc: ## The documentation, with warnings denied
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

.PHONY: bench
bench: ## Rate, memory and write units on generated logs, checked against the known answer; BENCH_EVENTS=N
	$(RELEASE) --bin securebase --bin generate
	rm -rf $(BENCH)
	$(TARGET)/release/generate --out $(BENCH) --events $(BENCH_EVENTS) --duplicates 2 --late 1
	$(PYTHON) checks/throughput.py $(TARGET)/release/securebase $(BENCH)

.PHONY: bench-invoices
bench-invoices: ## The monthly run on a private durable PostgreSQL, for 100 to 10,000 customers; ARGS=--help
	$(RELEASE) --bin invoices
	$(TARGET)/release/invoices --discard $(ARGS)

.PHONY: bench-stream
bench-stream: ## The stream format beside the others that were considered, on the same events; ARGS=--help
	$(RELEASE) --bin stream_format
	$(TARGET)/release/stream_format $(ARGS)

.PHONY: load
load: ## Latency of the API under load, endpoint by endpoint, beside a bare route; ARGS='--seconds 20 --rate 1000 --customers 500'
	$(RELEASE) --bin securebase
	cargo bench --workspace --bench load -- --server $(abspath $(TARGET)/release/securebase) $(ARGS)

.PHONY: visible
visible: ## How long after it was sent usage is visible in the API; ARGS='--samples 100 --flush-ms 1000'
	$(RELEASE) --bin securebase
	$(PYTHON) checks/visible.py $(TARGET)/release/securebase $(ARGS)

.PHONY: mapping
mapping: ## The Lambda functions behind a simulated event source mapping that lets everything go wrong; SEEDS=100 FIRST_SEED=1
	SECUREBASE_MAPPING_SEEDS=$(or $(SEEDS),100) SECUREBASE_MAPPING_FIRST_SEED=$(or $(FIRST_SEED),1) \
		cargo test -p functions --test functions -- --nocapture mapping::chain

.PHONY: sim
sim: ## The whole chain in one thread, from seeds, with everything that can go wrong; SEEDS=1000 FIRST_SEED=0 STEPS=600
	cargo build -p benches --bin sim
	$(DEBUG)/sim --seeds $(or $(SEEDS),1000) --first-seed $(or $(FIRST_SEED),0) --steps $(or $(STEPS),600)

.PHONY: soak
soak: ## The same with new seeds and longer histories until the time is over; SECONDS=600 FIRST_SEED=1000000
	$(RELEASE) --bin sim
	$(TARGET)/release/sim --seeds 1000000000 --seconds $(or $(SECONDS),600) --first-seed $(or $(FIRST_SEED),1000000) --steps $(or $(STEPS),1500)

.PHONY: landing-zone
landing-zone: ## A generated month in every delivered form, replayed by the program and compared with its known answer; CUSTOMERS=3 EVENTS=30000 DAYS=29 SEED=1
	cargo build -p embedded --bin with-postgres
	SECUREBASE_TEST_COMMAND_SECONDS=3600 \
		SECUREBASE_LANDING_ZONE=$(or $(CUSTOMERS),3),$(or $(EVENTS),30000),$(or $(DAYS),29),$(or $(SEED),1) \
		$(DEBUG)/with-postgres cargo test -p securebase --test cli -- --nocapture landing_zone::

.PHONY: fuzz
fuzz: ## Every reader under libFuzzer; SECONDS=60 for each, READER=NAME for one. Fetches libfuzzer-sys, builds a tree of its own, needs a C++ compiler
	fuzz/run.sh $(or $(SECONDS),60) $(READER)

.PHONY: chaos
chaos: ## Real processes on embedded servers, killed at random moments behind a network that cuts; KILLS=300 EVENTS=200000 SEED=1
	SECUREBASE_CHAOS_KILLS=$(or $(KILLS),300) SECUREBASE_CHAOS_EVENTS=$(or $(EVENTS),200000) SECUREBASE_CHAOS_SEED=$(or $(SEED),1) \
		cargo test --release --workspace --test cli -- --nocapture chaos::

.PHONY: full-disk
full-disk: build ## A disk that is really full, below a home and below PostgreSQL alone; mounts small file systems, and says so where it may not
	$(PYTHON) checks/full_disk.py $(DEBUG)/securebase

.PHONY: functions-report
functions-report: ## Size, start, answers and memory of the Lambda functions, built for release
	cargo build --release -p functions --bins
	SECUREBASE_FUNCTIONS=$(abspath $(TARGET)/release) cargo test -p functions --test functions -- --nocapture report::

.PHONY: ci
ci: ## What CI runs
	.ci/run
