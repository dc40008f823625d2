# `make` alone lists the targets. Each recipe is one script under scripts/, which can be read and run by itself.

.DEFAULT_GOAL := help
.PHONY: help setup build test soak demo escape bench faults model fuzz aarch64 lint format image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing, or say which
	@scripts/setup

build: ## the static binary, target/<triple>/release/egress-init
	@scripts/build

test: ## every test: unit, namespaces as root and as a plain user, Docker
	@scripts/test

soak: ## answers, lists and clients that change for SECONDS=180, and what failed meanwhile
	@scripts/soak $(or $(SECONDS),180)

demo: ## the static binary in a small internet of its own: what gets out, before and after
	@scripts/demo

escape: ## everything that was tried to get a byte out; the table goes to docs/escape.md
	@scripts/escape

bench: ## start, long lists, packets, sizes, instructions: docs/benchmarks/results.md, 15 minutes
	@scripts/bench

faults: ## every system call of a start, a refresh, a reload made to fail, each in turn: docs/faults.md
	@scripts/faults

model: ## the lifecycle as a state machine, every state of it: docs/model.md
	@scripts/model

fuzz: ## libFuzzer on everything that reads text or octets from outside: docs/fuzzing.md
	@scripts/fuzz

aarch64: ## every test on aarch64, in an emulated machine: half an hour
	@scripts/aarch64

lint: ## rustfmt, and clippy with warnings as errors
	@scripts/lint

format: ## rewrite the sources as rustfmt wants them
	@cargo fmt

image: ## the FROM scratch image `egress-init` (needs a Docker Engine)
	@scripts/image

clean: ## remove everything that was built
	@cargo clean
