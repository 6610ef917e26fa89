# Every target sees to its own set-up; nothing is installed without saying so.
.DEFAULT_GOAL := help
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.SUFFIXES:

WASMILL := target/release/wasmill
FLIGHTS := examples/flights/pipeline.yaml
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1)
IMAGE ?= wasmill:$(VERSION)

# Every test command names the whole workspace: of a part of it cargo would build the dependencies with
# other features, once more.

# How long `make test-long` goes on: places at which the store is damaged, seeds of the simulator, runs that
# are killed at random moments, and keys of which totals are kept.
SEEDS ?= 100000
KILL_ROUNDS ?= 200
KAFKA_ROUNDS ?= 30
SWAP_ROUNDS ?= 100
ENDS_ROUNDS ?= 20
DAMAGES ?= 5000
KEYS ?= 10000000
# How long each decoder is fuzzed, by `make fuzz` and by `make test-long`.
fuzz: FUZZ_SECONDS ?= 10
test-long: FUZZ_SECONDS ?= 1200

.PHONY: help
help: ## Shows this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup:
	@scripts/setup.sh build

.PHONY: build
build: setup ## Builds the host: target/release/wasmill
	@cargo build --release --workspace --bin wasmill

.PHONY: plugins
plugins: setup ## Builds the plugins: target/plugins/*.wasm
	@scripts/build-plugins.sh plugins/*/

# What `wasmill run` without a file applies; the other plugins are examples for pipeline files.
SEED_PLUGINS := processed-at drop-ignored count-types

.PHONY: seed-plugins
seed-plugins: setup ## Builds the service's own plugins: target/seed-plugins/*.wasm
	@scripts/build-plugins.sh $(SEED_PLUGINS)
	@mkdir -p target/seed-plugins
	@cp $(SEED_PLUGINS:%=target/plugins/%.wasm) target/seed-plugins/

# The plugins, and the tests' own guests.
.PHONY: guests
guests: setup
	@scripts/build-plugins.sh

.PHONY: run
run: build plugins ## Runs the flights pipeline from its start; results in out/flights
	@$(WASMILL) run $(FLIGHTS) --reset

.PHONY: demo-kafka
demo-kafka: build plugins ## Runs the flights over a Kafka broker of its own for some seconds
	@scripts/demo-kafka.sh

.PHONY: setup-test
setup-test:
	@scripts/setup.sh build test

# Plugins by other people's toolchains. One needs Node.js; without it the tests that need it can't run.
.PHONY: typed-js
typed-js:
	@if command -v node >/dev/null && command -v npm >/dev/null; then scripts/build-typed-js.sh; \
	else echo "typed-js: not built, for there is no Node.js with npm" >&2; fi

.PHONY: typed-py
typed-py:
	@scripts/build-typed-py.sh

# Most tests wait for other processes: more of them at once than there are processors.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n < 4 ? 4 : n)))

.PHONY: test-quick
test-quick: setup ## Runs the unit tests alone
	@cargo test --release --workspace --lib --bin wasmill-pack

.PHONY: test
test: setup-test guests typed-js typed-py ## Runs all tests
	@cargo test --release --workspace --no-fail-fast

.PHONY: test-long
test-long: setup-test guests typed-js typed-py build ## Runs what takes rounds: make test-long SEEDS=100000 KILL_ROUNDS=200
	@echo "$(DAMAGES) damages of the store, $(SEEDS) simulator seeds, $(KILL_ROUNDS) kill rounds, $(KEYS) keys, $(FUZZ_SECONDS) s of fuzzing"
	@WASMILL_DAMAGES=$(DAMAGES) cargo test --release --workspace --test it stores::
	@WASMILL_SEEDS=$(SEEDS) cargo test --release --workspace --test it -- law_one:: windows::
	@WASMILL_KILL_ROUNDS=$(KILL_ROUNDS) cargo test --release --workspace --test end_to_end
	@WASMILL_KEYS=$(KEYS) cargo test --release --workspace --test end_to_end many_keys
	@WASMILL_ENDS_ROUNDS=$(ENDS_ROUNDS) cargo test --release --workspace --test ends
	@WASMILL_KILL_ROUNDS=$(KAFKA_ROUNDS) WASMILL_EXACT_ROUNDS=$(KAFKA_ROUNDS) WASMILL_SWAP_ROUNDS=$(SWAP_ROUNDS) WASMILL_STOP_SECONDS=60 cargo test --release --workspace --test kafka
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: fuzz
fuzz: setup ## Feeds each decoder what a fuzzer makes up: make fuzz FUZZ_SECONDS=10
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: bench
bench: setup guests build ## Measures; prints a table
	@cargo build --release --workspace --bin bench
	@target/release/bench

.PHONY: coverage
coverage: setup-test guests typed-js typed-py ## Runs all tests and tells which lines they reach: target/coverage/
	@scripts/coverage.sh

.PHONY: fmt
fmt: ## Formats the code
	@scripts/setup.sh lint
	@cargo fmt --all

.PHONY: lint
lint: ## Checks formatting, lints, documentation, licences and sources of dependencies
	@scripts/setup.sh build lint
	@cargo fmt --all --check
	@cargo clippy --release --workspace --all-targets --quiet -- -D warnings
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --release --workspace --no-deps --document-private-items --quiet
	@scripts/check-dependencies.sh

.PHONY: docs
docs: setup ## Builds the API documentation: target/doc/
	@cargo doc --release --workspace --no-deps
	@echo "open target/doc/wasmill/index.html"

.PHONY: docker-build
docker-build: ## Builds the container image
	@docker build --tag $(IMAGE) .

.PHONY: check-container
check-container: build seed-plugins ## Checks Dockerfile and docker-compose.yml without a container engine
	@scripts/check-container.sh

.PHONY: docker-run
docker-run: ## Runs the service with Kafka, Redis and Prometheus in containers: docker-compose.yml
	@docker compose up --build

.PHONY: clean
clean: ## Removes what was built and what the examples wrote
	@cargo clean
	@rm -rf out
