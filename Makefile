# What people type. `make demo` shows the thing, `make test` is what has to pass, `make check` is the quick loop.
#
# One cargo at a time: tests, lints and docs share the debug build, the demo and the benches the release build.

SHELL = /bin/bash
CARGO = cargo
export PATH := $(PATH):$(HOME)/.cargo/bin
# How long a command of the test suite may take.
PATIENCE = 2400

.PHONY: help demo build test check fmt lint docs unit conformance examples bench fuzz clean-demo packages-test postgres-test broker-test packages-demo

help:
	@echo 'make demo [SOURCE=film.mp4]  encode a video in parallel, watch it, get the files'
	@echo 'make test                    format, lints, docs, every test, the examples'
	@echo 'make check                   format, lints, docs, unit tests (the quick loop)'
	@echo 'make bench                   steps, fan-out, latency and crash, measured on this machine'
	@echo 'make fuzz [SECONDS=30]       random texts and programs, so long for each fuzz target'
	@echo 'make build                   the release binary: target/release/celesta'
	@echo 'make clean-demo              forget what the demo made'

# --- the demo -------------------------------------------------------------------------------------------------------

demo: packages-demo build
	target/release/celesta demo $${SOURCE:+--source "$$SOURCE"}

build:
	$(CARGO) build --release --locked --package celesta

clean-demo:
	rm -rf .demo

# --- the tests ------------------------------------------------------------------------------------------------------

test: packages-test postgres-test broker-test fmt lint docs unit conformance examples
	@tests/postgres.sh stop
	@echo 'everything passed'

check: fmt lint docs
	postgres=$$(tests/postgres.sh url) && CELESTA_TEST_POSTGRES=$$postgres $(CARGO) test --workspace --locked --lib --bins

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --all-features check bans licenses sources; \
	else \
	    echo 'cargo-deny is not installed: licenses and owners of crates are not checked here'; \
	fi

docs:
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --workspace --no-deps --locked

# The binary comes first: end-to-end tests start it.
unit:
	$(CARGO) build --locked --package celesta
	postgres=$$(tests/postgres.sh url) && CELESTA_TEST_POSTGRES=$$postgres timeout $(PATIENCE) $(CARGO) test --workspace --locked

# How many tests of the one suite each store of the queue has passed.
conformance:
	@of() { $(CARGO) test --quiet --locked --package celesta-queue --test "$$1" -- --list | grep -c "::$$2::"; }; \
	echo "queue conformance: $$(of conformance memory) tests in memory, $$(of conformance sqlite) on SQLite, $$(of postgres postgres) on PostgreSQL"

# Every example must be without mistakes and pass its scenarios.
examples:
	@set -e; for example in examples/*/; do \
	    echo "== $$example"; \
	    target/debug/celesta check "$$example"; \
	    target/debug/celesta test "$$example"; \
	done

# cargo-fuzz wants flags of a nightly compiler; RUSTC_BOOTSTRAP lets the stable one take them. What it finds to be new it
# keeps in target/fuzz/corpus, what fails in target/fuzz/artifacts. There is no unsafe code here to be watched by a sanitizer.
FUZZ_TARGETS = parse format sections engine
SECONDS = 30

fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo 'cargo-fuzz is not installed: cargo install --locked cargo-fuzz' >&2; exit 1; }
	@set -e; for target in $(FUZZ_TARGETS); do \
	    echo "== $$target"; \
	    mkdir -p target/fuzz/corpus/$$target target/fuzz/artifacts/$$target; \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir rules/engine/fuzz --target-dir target/fuzz --sanitizer none $$target \
	        target/fuzz/corpus/$$target rules/engine/fuzz/corpus/$$target -- -max_total_time=$(SECONDS) -timeout=20 \
	        -max_len=4096 -artifact_prefix=target/fuzz/artifacts/$$target/; \
	done

# --- the figures ----------------------------------------------------------------------------------------------------

bench: build
	target/release/celesta bench steps --runs 2000 --steps 10 --concurrency 256
	target/release/celesta bench fanout --children 10000
	target/release/celesta bench latency --runs 500
	target/release/celesta bench crash --kills 100

# --- what must be there ---------------------------------------------------------------------------------------------

packages-test:
	@$(NEED); need python3 python3

# Tests of stores and queues want a PostgreSQL; tests/postgres.sh finds one or starts one.
postgres-test:
	@$(NEED); ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need initdb postgresql; need psql postgresql-client

# Tests of the road want a RabbitMQ on this machine, and stop and start it: `rabbitmqctl` must be allowed.
broker-test:
	@$(NEED); need rabbitmqctl rabbitmq-server; \
	if ! rabbitmqctl --quiet ping >/dev/null 2>&1; then \
	    echo 'starting RabbitMQ'; rabbitmq-server -detached >/dev/null 2>&1; \
	fi; \
	rabbitmqctl --quiet await_startup --timeout 120

packages-demo:
	@$(NEED); need ffmpeg ffmpeg; need ffprobe ffmpeg; need python3 python3

# need COMMAND PACKAGE: installs the package when the command is missing, or says what to install.
NEED = set -e; need() { \
    command -v "$$1" >/dev/null && return; \
    if ! command -v apt-get >/dev/null; then echo "$$1 is missing: please install $$2" >&2; exit 1; fi; \
    if [ "$$(id -u)" = 0 ]; then root=; \
    elif command -v sudo >/dev/null; then root=sudo; \
    else echo "$$1 is missing and nobody may install it here: as root, apt-get install $$2" >&2; exit 1; fi; \
    echo "installing $$2, which brings $$1"; \
    $$root env DEBIAN_FRONTEND=noninteractive apt-get -qq update; \
    $$root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$$2" >/dev/null; \
  }
