# The handful of commands that a day needs; `just` lists them.

default:
    @just --list

# Formats, lints, and runs the tests that need no root.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test --lib --bins

# Runs the kernel tests whose names contain NAME.
kernel NAME:
    sudo scripts/check/kernel-tests {{NAME}}

# Runs everything, as before a release.
test:
    sudo scripts/test

# The stages on the hot path.
bench:
    cargo bench --bench core

# The documents, as they are checked.
docs:
    cargo test --lib docs_tests
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
