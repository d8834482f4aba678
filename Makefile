# `make run`: builds, starts the guide's cluster on this machine with a test card, shows where to play it.
# `make stop`: ends it.
# `make test`: installs what the tests need, then checks and tests everything.

SRSCTL  := target/release/srsctl
EXAMPLE := deploy/examples/test-card.yaml
# `make bench`: compares a port with nginx-rtmp and a bare send loop on this machine, about 35 minutes; see
# crates/bench/examples/compare/main.rs for ROWS=, SERVERS= and SRS=.
# Integration tests mostly wait for media to flow, so more of them run than there are cores.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && echo $$n || echo 4)

# `make survive`: kills workers under 3000 players that check every byte; PLAYERS=, KILLS=, SEED=, ROLE=, CAUSES=all, POINTS=all, MUTATE=.
# `make soak`: the random histories of streams and of the supervisor, many more than `make test` runs; SRSCTL_SEEDS= and
# SRSCTL_SEED= choose how many and from which on.

# `make miri`: the tests of the crate that maps memory, under an interpreter that sees undefined behaviour, under both models of who
# may refer to what; a few minutes. It takes a nightly compiler with its component `miri`.

# `make release`: a program without libraries, in target/static/; tests/release.sh makes sure of that.

# `make deb`: a package for Debian, in target/deb/; tests/deb.sh makes sure that it is whole.

# `make bench-cluster`: the guide's cluster on its three machines, which are namespaces of this one, with 12 000 players; takes root.

.PHONY: deb release run stop test soak bench bench-cluster miri survive install-test-deps

run:
	@tests/install-deps.sh build
	cargo build --release --locked
	$(SRSCTL) up $(EXAMPLE)
	@echo
	@echo "Play it, e.g. with ffplay, VLC or mpv:"
	@$(SRSCTL) -f $(EXAMPLE) urls live/livestream
	@echo "End it with: make stop"

TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
release:
	@tests/install-deps.sh build
	CARGO_PROFILE_RELEASE_STRIP=debuginfo RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --release --locked --target $(TRIPLE) --target-dir target/static
	tests/release.sh target/static/$(TRIPLE)/release/srsctl

DEB := target/deb
deb: release
	rm -rf $(DEB) && mkdir -p $(DEB)
	cargo install -q --locked --root target/deb-tools --version 3.8.0 cargo-deb
	install -m 755 target/static/$(TRIPLE)/release/srsctl $(DEB)/srsctl
	$(DEB)/srsctl render man $(DEB)/man
	for shell in bash zsh fish; do $(DEB)/srsctl render completions $$shell >$(DEB)/srsctl.$$shell || exit; done
	PATH="$$PWD/target/deb-tools/bin:$$PATH" cargo deb --no-build --no-strip --locked --output $(DEB)/
	tests/deb.sh $(DEB)/*.deb

stop:
	$(SRSCTL) -f $(EXAMPLE) down

# One recipe, so that the steps run in this order under `make -j` too. Nothing is built twice: the last step uses the
# binary that the tests built.
test: export CARGO_INCREMENTAL ?= 0
test:
	@tests/install-deps.sh test
	cargo fmt --all --check
	PATH="$$PWD/target/tools/bin:$$PATH" cargo shear --locked
	PATH="$$PWD/target/tools/bin:$$PATH" cargo deny --locked check bans licenses sources
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	cargo check --manifest-path fuzz/Cargo.toml --no-default-features --locked
	for file in cluster.yaml deploy/examples/*.yaml; do target/debug/srsctl check "$$file" || exit; done

soak: export SRSCTL_SEEDS ?= 100000
soak:
	@tests/install-deps.sh build
	cargo test --release --locked -p stream --lib random
	cargo test --release --locked -p supervisor --lib simulation

bench:
	@tests/install-deps.sh bench
	cargo build --release --locked
	cargo run --release --locked -p bench --example compare

bench-cluster:
	@tests/install-deps.sh bench
	cargo build --release --locked
	cargo run --release --locked -p bench --example cluster

# Random histories write down what fails: Miri keeps from files what does not say otherwise.
miri:
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked -p shm --lib --target-dir target/miri
	MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows" \
	    cargo +nightly miri test --locked -p shm --lib --target-dir target/miri

# Kills workers under thousands of players that check every byte, about four minutes; see crates/bench/examples/survive/main.rs.
survive:
	@tests/install-deps.sh build
	cargo build --release --locked $(if $(POINTS)$(MUTATE),--features failpoints)
	cargo run --release --locked -p bench --example survive

install-test-deps:
	@tests/install-deps.sh test
