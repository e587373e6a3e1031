# Short names for the CMake presets (CMakePresets.json); everything here can be done with cmake alone.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
PROMPT ?= It was a dark night, and the

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Install what is missing, build, and let the shipped model write (PROMPT="...")
	@tools/setup.sh
	@cmake --preset release --log-level=NOTICE
	@cmake --build --preset release --parallel $(JOBS) --target mamba2
	build/release/bin/mamba2 generate "$(PROMPT)" --max-new-tokens 60

build: ## Build the release preset: binary, library, tests
	@tools/setup.sh
	cmake --preset release
	cmake --build --preset release --parallel $(JOBS)

test: build ## Build and run every test
	@ctest --preset release --parallel $(JOBS) --output-log build/release/tests.log; status=$$?; \
	  grep 'tests passed' build/release/tests.log; exit $$status

bench: ## Build and run the benchmarks
	@tools/setup.sh build bench
	cmake --preset bench
	cmake --build --preset bench --parallel $(JOBS) --target run_benchmarks

install: build ## Install binary, library, headers, model and CMake package (PREFIX=/usr/local)
	cmake --install build/release --prefix "$(PREFIX)"

format: ## Format the C++ sources in place
	@tools/setup.sh build lint
	@cmake --preset lint --log-level=NOTICE
	cmake --build --preset lint --target format

lint: ## Check format, layers and clang-tidy on every source
	@tools/setup.sh build lint
	@cmake --preset lint --log-level=NOTICE
	cmake --build --preset lint --target lint

docs: ## API reference by Doxygen in build/docs/html
	@tools/setup.sh build docs
	@cmake --preset lint --log-level=NOTICE
	cmake --build --preset lint --target docs

.PHONY: help demo build test bench install format lint docs
