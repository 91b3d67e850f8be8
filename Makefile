# make            the release binary, static and stripped
# make install    into DESTDIR/PREFIX/bin (PREFIX: /usr/local)
# make test       unit and end-to-end tests; needs root
# make demo       builds, then shows a container from inside; needs root
# make bench      compares the start of containers with the other runtimes in PATH; needs root
# Each installs the Debian packages that it needs and that are missing.

CARGO ?= cargo
PREFIX ?= /usr/local

# musl starts faster than static glibc; it is used where its target is installed.
host := $(shell rustc -vV | sed -n 's/^host: //p')
musl := $(subst -gnu,-musl,$(host))
target := $(if $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(musl)/lib),$(musl),$(host))
binary := target/$(target)/release/berth

all: build

build:
	@hack/require cc:gcc
	$(CARGO) build --release --locked --target $(target)

install: build
	install -D -m 755 $(binary) $(DESTDIR)$(PREFIX)/bin/berth

test:
	@hack/require cc:gcc busybox:busybox-static nsenter:util-linux python3:python3-minimal libseccomp.so.2:libseccomp2
	@test "$$(id -u)" = 0 || { echo "make test: the end-to-end tests need root" >&2; exit 1; }
	if $(CARGO) nextest --version > /dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --no-fail-fast; else $(CARGO) test --locked --no-fail-fast; fi

demo: build
	@hack/require busybox:busybox-static
	@hack/demo $(binary)

bench: build
	@hack/require busybox:busybox-static python3 strace time
	@hack/bench berth=$(binary) $(PEERS)

clean:
	$(CARGO) clean

.PHONY: all build install test demo bench clean
