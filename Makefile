# make            the release binary, static and stripped; its manual pages and licences
# make install    with manual pages, completions and licences, into DESTDIR/PREFIX (PREFIX: /usr/local)
# make uninstall  removes what install has put there
# make dist       the same as an archive, with a bill of materials and a checksum, in target/dist
# make deb        the same as a Debian package, in target/dist
# make man        the manual pages, in target/man
# make lint       formatting and lints: what a machine can judge without running anything
# make test       unit and end-to-end tests; needs root
# make attack     the attacks once more, on the release binary; needs root
# make vm-test    what few hosts can test (cgroup v2 limits, systemd, users, AppArmor, CRIU), in a virtual machine that
#                 it makes; VM holds options of hack/vm, such as "--arch arm64"; needs root
# make weaken     takes the defences out one at a time, and shows which tests notice; DEFENCES holds parts of the names
#                 of some; needs root
# make fuzz       feeds what reads hostile input, SECONDS (60) for each target
# make integration  runs the features of the engines that are installed with berth; needs root
# make demo       builds, then shows a container from inside; needs root
# make bench      compares the start of containers with the other runtimes in PATH, also in engines; needs root
# Each installs the Debian packages that it needs and that are missing; with REQUIRE=: none does.

CARGO ?= cargo
PREFIX ?= /usr/local
REQUIRE ?= hack/require

# What the binary is built for: this host. For musl: make target=x86_64-unknown-linux-musl
target := $(shell rustc -vV 2> /dev/null | sed -n 's/^host: //p')
sysroot := $(shell rustc --print sysroot 2> /dev/null)
share = $(PREFIX)/share
# The documents for users, as messages and manual pages name them.
pages := benchmarks compatibility debugging doctor engines errors exit-codes kernel-features reliability rootless shim \
  systemd timeline upgrade validate
completions := bash-completion/completions/berth zsh/site-functions/_berth fish/vendor_completions.d/berth.fish
# What make has built, also where root, who installs it, has no Rust.
binary := $(if $(target),target/$(target)/release/berth,$(firstword $(wildcard target/*/release/berth)))

# The same commit and toolchain give the same bytes: no path of the builder's is in them. A file of cargo's own keeps the
# flags of .cargo/config.toml, which RUSTFLAGS would replace.
cargo_home := $(or $(CARGO_HOME),$(HOME)/.cargo)
remap := "--remap-path-prefix=$(cargo_home)/registry/src=/cargo", \
  "--remap-path-prefix=$(sysroot)/lib/rustlib/src/rust=/rust", "--remap-path-prefix=$(CURDIR)=/berth"
config := --config 'target."cfg(target_os = \"linux\")".rustflags = [$(remap)]'

all: build man target/THIRD-PARTY

rust:
	@[ -n "$(target)" ] || { echo "rustc is not in PATH: install Rust, see https://rustup.rs" >&2; exit 1; }

build: rust
	@$(REQUIRE) cc:gcc+libc6-dev
	$(CARGO) build --release --locked --target $(target) $(config)

man: rust
	@$(REQUIRE) cc:gcc+libc6-dev
	rm -rf target/man && mkdir -p target/man
	$(CARGO) run --quiet --locked --example man -- target/man

# The licences of what is linked.
target/THIRD-PARTY: Cargo.lock hack/third-party | rust
	@$(REQUIRE) python3
	hack/third-party $(target) > $@.new && mv $@.new $@

# Without Rust, as for root by sudo, what make has built before is installed.
install: $(if $(target),all)
	@[ -x "$(binary)" ] || { echo "nothing is built, and rustc is not in PATH: run make as yourself first" >&2; exit 1; }
	install -D -m 755 $(binary) $(DESTDIR)$(PREFIX)/bin/berth
	ln -sf berth $(DESTDIR)$(PREFIX)/bin/containerd-shim-berth-v2
	install -d $(DESTDIR)$(share)/man/man8 $(DESTDIR)$(share)/doc/berth/docs/compatibility
	install -m 644 target/man/*.8 $(DESTDIR)$(share)/man/man8
	install -m 644 LICENSE target/THIRD-PARTY $(DESTDIR)$(share)/doc/berth
	install -m 644 $(patsubst %,docs/%.md,$(pages)) $(DESTDIR)$(share)/doc/berth/docs
	install -m 644 docs/compatibility/*.md $(DESTDIR)$(share)/doc/berth/docs/compatibility
	install -d $(dir $(addprefix $(DESTDIR)$(share)/,$(completions)))
	$(binary) completion bash > $(DESTDIR)$(share)/$(word 1,$(completions))
	$(binary) completion zsh > $(DESTDIR)$(share)/$(word 2,$(completions))
	$(binary) completion fish > $(DESTDIR)$(share)/$(word 3,$(completions))

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/berth $(DESTDIR)$(PREFIX)/bin/containerd-shim-berth-v2
	rm -f $(addprefix $(DESTDIR)$(share)/man/man8/,berth.8 berth-*.8 containerd-shim-berth-v2.8)
	rm -f $(addprefix $(DESTDIR)$(share)/,$(completions))
	rm -rf $(DESTDIR)$(share)/doc/berth

dist: $(if $(target),all)
	hack/dist $(target)

deb: $(if $(target),all)
	@$(REQUIRE) dpkg-deb:dpkg
	hack/deb $(target)

tested := cc:gcc+libc6-dev busybox:busybox-static mkfs.ext4:e2fsprogs newuidmap:uidmap nsenter:util-linux ps:procps python3 zsh fish libseccomp.so.2:libseccomp2
# The documentation of the library, in which every link leads somewhere.
doc = RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --lib --features oci-spec
# Tests wait for half of their time.
threads := $(shell echo $$((2 * $$(nproc))))
parallel = NEXTEST_TEST_THREADS=$(threads) RUST_TEST_THREADS=$(threads)
nextest = $(shell $(CARGO) nextest --version > /dev/null 2>&1 && echo nextest)
define can_test
	@$(REQUIRE) $(tested)
	@test "$$(id -u)" = 0 || { echo "make $@: these tests need root" >&2; exit 1; }
endef

# Besides what cargo knows: the sources of init's image, the length of comments, the programs in C, and that each defence
# still has its place in the source.
lint: rust
	@$(REQUIRE) cc:gcc+libc6-dev python3
	$(CARGO) fmt --check
	rustfmt --check --edition 2024 src/image.rs src/sys/std/lib.rs
	@! LC_ALL=C.UTF-8 grep -rnE '^.{121}' --include='*.rs' src tests examples build.rs | grep -E '^[^:]*:[0-9]+: *//' || \
	  { echo "make lint: the comments above are longer than 120 columns" >&2; exit 1; }
	$(CARGO) clippy --all-targets --locked -- -D warnings
	for floor in hack/floor*.c; do cc -O2 -Wall -Wextra -Werror -fsyntax-only "$$floor" || exit 1; done
	hack/weaken --check

test:
	$(can_test)
	@hack/weaken --check
	@mkdir -p target && rm -f target/skips
	export BERTH_SKIPS="$$PWD/target/skips" $(parallel); \
	$(if $(nextest),$(CARGO) nextest run --locked --no-fail-fast, $(CARGO) test --locked --no-fail-fast) && \
	  $(CARGO) test --locked --doc --features oci-spec && $(doc); \
	status=$$?; hack/skips target/skips $(SKIPS) && exit $$status

attack: build
	$(can_test)
	BERTH_BIN=$(CURDIR)/$(binary) $(parallel) $(CARGO) $(if $(nextest),nextest run,test) --locked --no-fail-fast --test attack

# Without a KVM the processor is emulated: about ten minutes, and as many for the machine, which is kept.
VM_TESTS ?= resources:: update:: events:: pause:: systemd rootless apparmor checkpoint state_root
vm-test:
	@$(REQUIRE) cc:gcc+libc6-dev
	hack/vm $(VM) $(VM_TESTS)

# What takes a defence out one at a time, and shows the tests that fail.
weaken:
	@$(REQUIRE) $(tested)
	hack/weaken $(DEFENCES)

# The fuzz targets, each for so long.
SECONDS ?= 60
fuzz: rust
	@$(REQUIRE) cc:gcc+libc6-dev c++:g++ libseccomp.so.2:libseccomp2
	hack/fuzz $(SECONDS)

# An engine that is not installed ends with 77, and says what to install.
engines := $(wildcard $(patsubst %,integration/%/run,containerd cri docker podman))
integration: build
	@$(REQUIRE) busybox:busybox-static ip:iproute2 python3 script:bsdutils
	@failed=; for run in $(engines); do $$run || [ $$? = 77 ] || failed="$$failed $$run"; done; \
	  [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

demo: build
	@$(REQUIRE) busybox:busybox-static
	@hack/demo $(binary)

bench: build
	@$(REQUIRE) busybox:busybox-static cc:gcc+libc6-dev python3 strace time
	@hack/bench berth=$(binary) $(PEERS)
	@for engine in containerd cri docker; do integration/$$engine/run --shim --bench 20 || [ $$? = 77 ] || exit 1; done

clean:
	$(CARGO) clean

.PHONY: all rust build man install uninstall dist deb lint test attack vm-test weaken fuzz integration demo bench clean
