# make            the release binary, static and stripped
# make install    with manual pages and completions, into DESTDIR/PREFIX (PREFIX: /usr/local)
# make man        the manual pages, in target/man
# make test       unit and end-to-end tests; needs root
# make weaken     takes the defences out one at a time, and shows which tests notice; needs root
# make fuzz       feeds what reads hostile input, SECONDS (60) for each target; needs cargo-fuzz
# make integration  runs the features of the engines that are installed with berth; needs root
# make demo       builds, then shows a container from inside; needs root
# make bench      compares the start of containers with the other runtimes in PATH; needs root
# Each installs the Debian packages that it needs and that are missing.

CARGO ?= cargo
PREFIX ?= /usr/local

# musl starts faster than static glibc; it is used where its target is installed.
host := $(shell rustc -vV | sed -n 's/^host: //p')
musl := $(subst -gnu,-musl,$(host))
target := $(if $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(musl)/lib),$(musl),$(host))
share = $(PREFIX)/share
completions := bash-completion/completions/berth zsh/site-functions/_berth fish/vendor_completions.d/berth.fish
binary := target/$(target)/release/berth

all: build

build:
	@hack/require cc:gcc+libc6-dev
	$(CARGO) build --release --locked --target $(target)

man:
	@hack/require cc:gcc+libc6-dev
	rm -rf target/man && mkdir -p target/man
	$(CARGO) run --quiet --locked --example man -- target/man

install: build man
	install -D -m 755 $(binary) $(DESTDIR)$(PREFIX)/bin/berth
	install -d $(DESTDIR)$(share)/man/man8
	install -m 644 target/man/*.8 $(DESTDIR)$(share)/man/man8
	install -d $(dir $(addprefix $(DESTDIR)$(share)/,$(completions)))
	$(binary) completion bash > $(DESTDIR)$(share)/$(word 1,$(completions))
	$(binary) completion zsh > $(DESTDIR)$(share)/$(word 2,$(completions))
	$(binary) completion fish > $(DESTDIR)$(share)/$(word 3,$(completions))

test:
	@hack/require cc:gcc+libc6-dev busybox:busybox-static newuidmap:uidmap nsenter:util-linux ps:procps python3 libseccomp.so.2:libseccomp2
	@test "$$(id -u)" = 0 || { echo "make test: the end-to-end tests need root" >&2; exit 1; }
	@hack/weaken --check
	@mkdir -p target && rm -f target/skips
	export BERTH_SKIPS="$$PWD/target/skips"; \
	if $(CARGO) nextest --version > /dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --no-fail-fast; else $(CARGO) test --locked --no-fail-fast; fi; \
	status=$$?; hack/skips target/skips $(SKIPS) && exit $$status

# What takes a defence out one at a time, and shows the tests that fail.
weaken:
	hack/weaken

# The fuzz targets, each for so long.
SECONDS ?= 60
fuzz:
	@hack/require c++:g++
	@cargo fuzz --version > /dev/null 2>&1 || { echo "make fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	hack/fuzz $(SECONDS)

# An engine that is not installed ends with 77, and says what to install.
engines := $(wildcard $(patsubst %,integration/%/run,containerd cri docker podman))
integration: build
	@hack/require busybox:busybox-static ip:iproute2 python3 script:bsdutils
	@failed=; for run in $(engines); do $$run || [ $$? = 77 ] || failed="$$failed $$run"; done; \
	  [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

demo: build
	@hack/require busybox:busybox-static
	@hack/demo $(binary)

bench: build
	@hack/require busybox:busybox-static python3 strace time
	@hack/bench berth=$(binary) $(PEERS)

clean:
	$(CARGO) clean

.PHONY: all build man install test weaken fuzz integration demo bench clean
