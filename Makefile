# The two commands for a newcomer: `make demo` and `make test`. Each does its own set-up.
.POSIX:
SHELL = /bin/sh
SECONDS = 5
MINUTES = 60

.PHONY: all build demo tour test attacks compat bench bench-quick bench-programs bench-check soak crowd grants e2e fuzz model mutants systemd man setup install install-knockd clean install-units install-user install-package deb rpm packages-test

all: build

build:
	cargo build --release --locked

## A readable timeline of the real thing in network namespaces. Half a minute after the build.
demo: setup
	cargo build --locked
	tools/in-namespaces tools/demo

## docs/tour.md and docs/tour.svg, made anew from a real run, as root. Half a minute after the build.
tour: setup
	cargo build --locked
	tools/tour

## Everything: fmt, clippy, unit, vectors, properties, end to end, docs, a few seconds of each fuzz target.
test:
	tools/test

## The 32 attacks of tests/ATTACKS: what is tried, by which test, and whether it holds. Part of `make test`.
attacks: setup
	tools/attacks

## knockd's own cases, against our programs by the names knockd and knock, and against the real ones: make compat CASES=DIRECTORY
compat:
	tools/compat

## toctoc beside knockd and fwknopd, as root: docs/benchmarks.md. Under 15 minutes after the build; says little on a busy
## machine. Writes docs/benchmarks; bench-quick, under three minutes, target/bench.
bench: bench-programs
	benches/compare/compare.py --to docs/benchmarks
bench-quick: bench-programs
	benches/compare/compare.py --quick
bench-programs:
	tools/setup bench
	cargo build --release --locked
	cargo build --release --locked --package toctoc-client

## Instructions per packet and per knock, by callgrind, beside the figures of benches/counts. Seconds after the build.
bench-check:
	tools/setup bench
	cargo build --release --locked --package toctoc-counts
	tools/in-namespaces unshare --net $${CARGO_TARGET_DIR:-target}/release/toctoc-counts

## An hour of grants, reloads, repairs and junk at once: docs/benchmarks.md. Fails if a knock is lost or memory grows.
soak: setup
	tools/in-namespaces cargo bench --locked --bench soak -- $(MINUTES)

## Gateways with 0, 4,096 and 50,000 live grants side by side: docs/benchmarks.md. Some five minutes.
grants: setup
	tools/in-namespaces cargo bench --locked --bench grants -- $(ROUNDS)

## A gateway with 100,000 clients: start, reload, memory, and what knocks notice: docs/benchmarks.md. A minute.
crowd: setup
	tools/in-namespaces cargo bench --locked --bench crowd -- $(CLIENTS)

## Only the tests that need namespaces.
e2e: setup
	tools/in-namespaces cargo test --locked --test end_to_end

## Each fuzz target for SECONDS seconds: make fuzz SECONDS=600
fuzz:
	tools/setup fuzz
	tools/fuzz $(SECONDS)

## The symbolic models against their expected codes: docs/models.md.
model:
	tools/model

## The units under a real systemd, in a Debian that it fetches; as root. A few minutes the first time, then ten seconds.
systemd:
	tools/under-systemd

## Where core could be wrong and none of its tests would notice: days, `tools/mutants FILE` an hour. Needs cargo-mutants.
mutants:
	tools/mutants

.PHONY: metrics-test
## The alert rules, the dashboard and a gateway's numbers, checked by promtool; as root. A minute after the build.
metrics-test: setup
	tools/metrics-test

.PHONY: windows window window-test story
## toctoc.exe and toctoc-window.exe in a zip, with manifests for winget and scoop: target/windows. Some ten minutes.
windows:
	tools/setup only windows
	tools/windows

## The window of this system: window/target/release/toctoc-window.
window:
	cargo build --release --locked --manifest-path window/Cargo.toml

## The window's unit tests, then the window on Linux and under Wine, by keyboard, against a gateway in a namespace.
window-test: window windows
	tools/setup only window
	cargo test --locked --manifest-path window/Cargo.toml
	cargo build --locked
	tools/in-namespaces tools/window-test

## The whole story by packages alone: a Debian server by the .deb, a Windows client by the .exe under Wine; as root. A minute
## after the builds.
story: deb windows
	tools/setup only window trees
	tools/story

## The programs' manual pages, of the definitions in src/app/args.
man:
	TOCTOC_MAN=write cargo test --locked --quiet --test parts pages_of_the_programs

setup:
	tools/setup

PREFIX = /usr/local
# The built programs: by `make BIN=DIRECTORY ...` or by the environment.
BIN ?= $${CARGO_TARGET_DIR:-target}/release
ZSHDIR = $(PREFIX)/share/zsh/site-functions
# Must be there when systemd starts: /etc/systemd/system where PREFIX is on a file system of its own.
UNITDIR = $(PREFIX)/lib/systemd/system
install: build install-units install-user
	install -D -m 755 $(BIN)/toctocd $(DESTDIR)$(PREFIX)/sbin/toctocd
	install -D -m 755 $(BIN)/toctoc $(DESTDIR)$(PREFIX)/bin/toctoc
	install -D -m 644 man/toctoc.1 $(DESTDIR)$(PREFIX)/share/man/man1/toctoc.1
	install -D -m 644 man/toctocd.8 $(DESTDIR)$(PREFIX)/share/man/man8/toctocd.8
	install -D -m 644 man/toctocd.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/toctocd.toml.5
	install -D -m 644 man/toctoc-profile.5 $(DESTDIR)$(PREFIX)/share/man/man5/toctoc-profile.5
	install -D -m 644 man/toctoc-knockd.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/toctoc-knockd.conf.5
	for program in toctoc toctocd; do \
		install -D -m 644 completions/toctoc.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program && \
		install -D -m 644 completions/toctoc.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$program.fish || exit 1; \
	done
	install -D -m 644 completions/_toctoc $(DESTDIR)$(ZSHDIR)/_toctoc

UNITS = toctoc-guard.service toctocd.service toctoc-listener.socket toctoc-listener@.service
## The units of systemd: the closed guard before the network, the gateway, and its listeners. They name the programs where PREFIX
## puts them. And what a gateway with commands, or with `xdp`, needs beyond that.
install-units:
	for unit in $(UNITS) commands.conf xdp.conf; do \
		case $$unit in *.conf) to=$(PREFIX)/share/toctoc ;; *) to=$(UNITDIR) ;; esac && \
		sed 's|/usr/local/|$(PREFIX)/|' packaging/systemd/$$unit >$$unit.tmp && \
		install -D -m 644 $$unit.tmp $(DESTDIR)$$to/$$unit && \
		rm $$unit.tmp || exit 1; \
	done
	install -D -m 644 packaging/sysusers/toctoc.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/toctoc.conf
	install -D -m 644 packaging/tmpfiles/toctoc.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/toctoc.conf

## The listener's own user, on this machine. A package leaves this to sysusers.d or its own scripts.
install-user:
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ] && ! getent passwd _toctoc >/dev/null; then \
		useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin _toctoc; \
	fi

## The old names, in front of knockd's own in the path. knockd is a copy: whatever goes by the program, as
## `start-stop-daemon --exec` in Debian's init script does, would take a link and the gateway for one.
install-knockd: install
	rm -f $(DESTDIR)$(PREFIX)/sbin/knockd
	install -m 755 $(BIN)/toctocd $(DESTDIR)$(PREFIX)/sbin/knockd
	ln -sf toctoc $(DESTDIR)$(PREFIX)/bin/knock
	install -D -m 644 man/knockd.1 $(DESTDIR)$(PREFIX)/share/man/man1/knockd.1
	install -D -m 644 man/knock.1 $(DESTDIR)$(PREFIX)/share/man/man1/knock.1

.PHONY: uninstall static static-test container container-test release reproducible install-lines
## Takes away what install and install-knockd put there; keeps configuration, keys and state. Not while a guard is loaded:
## it would stay, and nothing could open what it closes.
uninstall:
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ] && [ -x $(PREFIX)/sbin/toctocd ] && ! $(PREFIX)/sbin/toctocd guard status | grep -q '^guard  *OFF'; then \
		echo "the guard is loaded, or nobody knows: \`systemctl disable --now toctoc-guard toctocd; toctocd guard off\` first, which OPENS what it guards" >&2; \
		exit 1; \
	fi
	cd $(DESTDIR)$(PREFIX) && rm -f sbin/toctocd sbin/knockd bin/toctoc bin/knock \
		share/man/man1/toctoc.1 share/man/man1/knock.1 share/man/man1/knockd.1 share/man/man8/toctocd.8 \
		share/man/man5/toctocd.toml.5 share/man/man5/toctoc-profile.5 share/man/man5/toctoc-knockd.conf.5 \
		share/bash-completion/completions/toctoc share/bash-completion/completions/toctocd \
		share/fish/vendor_completions.d/toctoc.fish share/fish/vendor_completions.d/toctocd.fish \
		lib/sysusers.d/toctoc.conf lib/tmpfiles.d/toctoc.conf share/toctoc/commands.conf share/toctoc/xdp.conf
	cd $(DESTDIR)$(UNITDIR) && rm -f $(UNITS)
	rm -f $(DESTDIR)$(ZSHDIR)/_toctoc
	@echo "kept: /etc/toctoc, /var/lib/toctoc and the user _toctoc"

## Programs for any Linux on x86_64 and aarch64, without a library: target/static. Some ten minutes.
static:
	tools/static

.PHONY: library
## The client library for apps, for Linux, Android and iOS: target/client-library, docs/phones.md. Some three minutes.
library:
	tools/library

## The static programs at work: in an empty root directory, and for aarch64 by qemu. Ten seconds after the build.
static-test: static
	tools/setup only static-test
	tools/in-namespaces tools/try-static

## What an image of the gateway is built from: target/container.
container:
	tools/container

## The image in podman, with the capabilities that it needs, and with each of them missing. A minute after the build; as root.
container-test: container
	tools/setup only container-test
	tools/try-container

## The files of a release, in target/dist: docs/install.md. Some twenty minutes. make release KEY=FILE signs.
release:
	tools/release

## A release, and the same once more in another folder on another day, compared byte by byte. An hour; PARTS=static is shorter.
reproducible: release
	tools/reproducible

## Each line of README's install table, with the files of `make release`, on a copy of this machine; as root. A minute.
install-lines:
	tools/setup only static-test container-test rpm
	tools/install-lines

## What packages have besides: a commented configuration that is never read, rotation of logs, alert rules, knockd's units.
install-package: install install-knockd
	install -D -m 644 src/config/toctocd.toml $(DESTDIR)/etc/toctoc/toctocd.toml.example
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/toctoc/monitoring packaging/monitoring/*
	install -D -m 644 packaging/logrotate/toctoc $(DESTDIR)/etc/logrotate.d/toctoc
	install -D -m 644 packaging/logrotate/toctoc-knockd $(DESTDIR)/etc/logrotate.d/toctoc-knockd
	install -D -m 644 packaging/systemd/toctoc-knockd.conf $(DESTDIR)$(UNITDIR)/knockd.service.d/toctoc.conf
	sed 's|/usr/local/|$(PREFIX)/|' packaging/systemd/toctoc-knockd.service >$(DESTDIR)$(UNITDIR)/toctoc-knockd.service

## Debian packages and RPMs: target/packages. Some minutes.
deb:
	tools/package deb
rpm:
	tools/package rpm

## The packages in trees of Debian 12 and 13, under systemd: installed, started, upgraded, removed, purged.
packages-test:
	tools/packages-test

clean:
	cargo clean
