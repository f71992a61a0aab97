#!/usr/bin/env bash
# Builds the kernel tests as the calling user and runs them as root.
#
#   scripts/kernel-tests.sh [--strict] [FILTER] [further options of the test binary, as `--list`]
#
# --strict makes a skipped test a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

strict=${FANSYNC_TEST_STRICT:-0}
if [[ ${1:-} == --strict ]]; then
    strict=1
    shift
fi

need_cargo
# Under json, cargo still renders errors on stderr.
built=$(as_caller cargo test --quiet --no-run --test kernel --message-format=json-render-diagnostics)
binary=$(sed -n 's/.*"name":"kernel".*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
[[ -x $binary ]] || die "cargo did not say where it put the kernel tests"

settings=(FANSYNC_TEST_STRICT="$strict")
for name in FANSYNC_TEST_LOG FANSYNC_TEST_BINARY FANSYNC_TEST_RSYNCD FANSYNC_TEST_TIMES FANSYNC_TEST_FLOOD; do
    if [[ -n ${!name:-} ]]; then settings+=("$name=${!name}"); fi
done

if [[ $EUID -eq 0 ]]; then
    exec env "${settings[@]}" "$binary" "$@"
fi
have sudo || die "the kernel tests mount filesystems and need root: call this as root, or install sudo"
exec sudo env "${settings[@]}" "$binary" "$@"
