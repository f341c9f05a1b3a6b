# `make up` is the way in; the rest of the targets are its parts.

CACHE := $(or $(WASMKIND_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wasmkind)
export CARGO_TARGET_DIR ?= $(CACHE)/target
# A folder of their own: guests share nothing with the workspace, not even flags.
GUESTS := $(CACHE)/target-guests
RUNWASI := $(CACHE)/target-runwasi

TRIPLE := $(shell uname -m)-unknown-linux-gnu
STATIC := $(CARGO_TARGET_DIR)/$(TRIPLE)/release
WASM := $(GUESTS)/wasm32-wasip2/release
LINUX := $(GUESTS)/$(TRIPLE)/release
comma := ,
crt_static = RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static"

ARTIFACTS := bin/artifacts
PROGRAMS := $(addprefix $(ARTIFACTS)/,containerd-shim-wasmkind-v1 wasmkind-runner wasmkind-compiler)
IMAGES := $(addprefix $(ARTIFACTS)/images/,mixed-pod-wasm.tar mixed-pod-linux.tar conformance-wasm.tar conformance-linux.tar)
SAMPLES := $(ARTIFACTS)/samples/mixed-pod.yaml

.PHONY: help up setup build guests test-guests programs runwasi test check e2e down clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make up       from a bare machine to a mixed Pod that answers'
	@echo 'make build    bin/wasmkind and all that it puts on a node'
	@echo 'make test     every test, from formatting to a whole cluster'
	@echo 'make check    formatting, lints and unit tests'
	@echo 'make e2e NAME one phase of the tests, such as `make e2e mixed-pod`; `ci/test --list` names them'
	@echo 'make runwasi  the shim to compare with, for `wasmkind build node-image --with-runwasi`'
	@echo 'make down     delete what `make up` made'
	@echo 'make clean    delete what was built here; downloads stay'

up: setup
	@$(MAKE) --no-print-directory build
	bin/wasmkind up

test: setup
	@$(MAKE) --no-print-directory build test-guests
	ci/test

check:
	@ci/test fmt clippy unit

# What follows `e2e` on the command line names phases, and is nothing to make.
ifeq (e2e,$(firstword $(MAKECMDGOALS)))
NAMES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
ifeq (,$(NAMES))
$(error usage: make e2e NAME...; the names are: $(shell ci/test --list))
endif
.PHONY: $(NAMES)
$(NAMES): e2e ; @:
endif

e2e: setup
	@$(MAKE) --no-print-directory build test-guests
	ci/test test-tools $(NAMES)

down:
	@if [ -x bin/wasmkind ]; then bin/wasmkind down; else echo 'bin/wasmkind is not built: nothing to take down' >&2; fi

clean:
	rm -rf bin $(GUESTS) $(RUNWASI)
	cargo clean --quiet

setup:
	+@ci/setup

build: bin/wasmkind programs guests
programs: $(PROGRAMS)
guests: $(IMAGES) $(SAMPLES)
# What no node has preloaded.
test-guests: $(ARTIFACTS)/guests/spin.wasm

# Cargo knows best what is out of date, so it is asked each time. What it leaves as it was keeps
# its time stamp, and nothing that depends on it is made again. The plus signs hand it make's job
# server, so that -j counts for both.

bin/wasmkind: $(CARGO_TARGET_DIR)/cli/wasmkind
$(CARGO_TARGET_DIR)/cli/wasmkind: FORCE
	+@cargo build --profile cli --locked -p wasmkind

$(ARTIFACTS)/containerd-shim-wasmkind-v1: $(STATIC)/containerd-shim-wasmkind-v1
$(STATIC)/containerd-shim-wasmkind-v1: FORCE
	+@$(crt_static) cargo build --release --locked --target $(TRIPLE) -p containerd-shim-wasmkind

# One package a call: built together they would share features, and the runner would carry the
# compiler.
$(ARTIFACTS)/wasmkind-runner: $(STATIC)/wasmkind-runner
$(STATIC)/wasmkind-runner: FORCE
	+@$(crt_static) cargo build --release --locked --target $(TRIPLE) -p wasmkind-runner

$(ARTIFACTS)/wasmkind-compiler: $(CARGO_TARGET_DIR)/$(TRIPLE)/cli/wasmkind-compiler
$(CARGO_TARGET_DIR)/$(TRIPLE)/cli/wasmkind-compiler: FORCE
	+@$(crt_static) cargo build --profile cli --locked --target $(TRIPLE) -p wasmkind-compiler

# The reference shim brings an engine of its own, which takes minutes; nothing depends on it.
REFERENCE := $(ARTIFACTS)/containerd-shim-runwasi-wasmtime-v1
runwasi: $(REFERENCE)
$(REFERENCE): $(RUNWASI)/$(TRIPLE)/release/containerd-shim-runwasi-wasmtime-v1
$(RUNWASI)/$(TRIPLE)/release/containerd-shim-runwasi-wasmtime-v1: FORCE
	+@cd shim/runwasi && CARGO_TARGET_DIR=$(RUNWASI) $(crt_static) LIBSECCOMP_LINK_TYPE=static \
		LIBSECCOMP_LIB_PATH=$$(pkg-config --variable=libdir libseccomp) cargo build --release --locked --target $(TRIPLE)

bin/wasmkind $(PROGRAMS) $(REFERENCE):
	@install -D $< $@

# Guests

# wasm_guest(folder): its crate, built.
wasm_guest = ci/wasm-sysroot && set -a && . $(CACHE)/guest-env && cd examples/$(1) \
	&& CARGO_TARGET_DIR=$(GUESTS) cargo build --release --locked --target wasm32-wasip2

$(WASM)/mixed_pod_wasm.wasm: FORCE
	+@$(call wasm_guest,mixed-pod/wasm)
$(WASM)/spin_wasm.wasm: FORCE
	+@$(call wasm_guest,spin/wasm)
$(ARTIFACTS)/guests/spin.wasm: $(WASM)/spin_wasm.wasm
	@install -D -m 0644 $< $@

$(LINUX)/mixed-linux: FORCE
	+@cd examples/mixed-pod/linux && CARGO_TARGET_DIR=$(GUESTS) $(crt_static) \
		cargo build --release --locked --target $(TRIPLE)

# One source, three components and two static binaries, of one build each.
CONFORMANCE_WASM := $(addprefix $(WASM)/,service.wasm command.wasm exit.wasm)
CONFORMANCE_LINUX := $(addprefix $(LINUX)/,command exit)

$(CONFORMANCE_WASM) &: FORCE
	+@ci/wasm-sysroot
	+@set -a && . $(CACHE)/guest-env && cd examples/conformance/guest && CARGO_TARGET_DIR=$(GUESTS) \
		cargo build --release --locked --target wasm32-wasip2

$(CONFORMANCE_LINUX) &: FORCE
	+@cd examples/conformance/guest && CARGO_TARGET_DIR=$(GUESTS) $(crt_static) \
		cargo build --release --locked --target $(TRIPLE) --bins

# The head of a module and no section: what a runtime must refuse.
$(WASM)/corrupt.wasm:
	@mkdir -p $(@D) && printf '\0asm\1\0\0\0 and no section' >$@

# A command that imports the function `made-it` of a module `nobody`: what no runtime can link.
$(WASM)/unknown-import.wasm:
	@mkdir -p $(@D) && printf '%b' '\0asm\01\0\0\0' '\01\04\01\0140\0\0' \
		'\02\022\01\06nobody\07made-it\0\0' '\03\02\01\0' '\07\012\01\06_start\0\01' '\012\04\01\02\0\013' >$@

# image(reference, entrypoint, SOURCE:/TARGET...)
image = @mkdir -p $(@D) && bin/wasmkind build image -t $(1) --entrypoint '$(2)' -o $@ $(3)
# Files in an image's root.
in_root = $(foreach file,$(1),$(file):/$(notdir $(file)))

$(ARTIFACTS)/images/mixed-pod-wasm.tar: $(WASM)/mixed_pod_wasm.wasm bin/wasmkind
	$(call image,wasmkind.dev/examples/mixed-pod-wasm:v1,["/mixed-pod.wasm"],$<:/mixed-pod.wasm)
$(ARTIFACTS)/images/mixed-pod-linux.tar: $(LINUX)/mixed-linux bin/wasmkind
	$(call image,wasmkind.dev/examples/mixed-pod-linux:v1,["/mixed-linux"],$<:/mixed-linux)
$(ARTIFACTS)/images/conformance-wasm.tar: $(CONFORMANCE_WASM) $(addprefix $(WASM)/,corrupt.wasm unknown-import.wasm) bin/wasmkind
	$(call image,wasmkind.dev/conformance/wasm:v1,["/service.wasm"],$(call in_root,$(filter %.wasm,$^)))
$(ARTIFACTS)/images/conformance-linux.tar: $(CONFORMANCE_LINUX) bin/wasmkind
	$(call image,wasmkind.dev/conformance/linux:v1,["/command"$(comma)"serve"],$(call in_root,$(filter $(LINUX)/%,$^)))

$(ARTIFACTS)/samples/%.yaml: examples/%/pod.yaml
	@install -D -m 0644 $< $@
