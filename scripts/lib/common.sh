# shellcheck shell=bash
# What the scripts share: messages, installing what is missing, cargo as the user who called.

say() { printf '%s\n' "$*"; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# The user cargo is to run as: whoever called sudo, else whoever calls.
caller() {
    if [[ $EUID -eq 0 && -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        printf '%s\n' "$SUDO_USER"
    else
        id -un
    fi
}

# Runs a command as that user, with the toolchain in reach: sudo resets PATH and the environment.
as_caller() {
    local user home keep=() name
    user=$(caller)
    home=$(getent passwd "$user" | cut -d: -f6)
    for name in CARGO_TARGET_DIR CARGO_HOME RUSTUP_HOME RUSTUP_TOOLCHAIN RUSTFLAGS RUSTDOCFLAGS CARGO_TERM_COLOR; do
        if [[ -n ${!name:-} ]]; then keep+=("$name=${!name}"); fi
    done
    local path="${CARGO_HOME:-$home/.cargo}/bin:$PATH"
    if [[ $user == "$(id -un)" ]]; then
        env "PATH=$path" ${keep[0]+"${keep[@]}"} "$@"
    else
        sudo -u "$user" -H env "PATH=$path" ${keep[0]+"${keep[@]}"} "$@"
    fi
}

need_cargo() {
    if ! as_caller cargo --version >/dev/null 2>&1; then
        {
            say "There is no Rust toolchain for user $(caller). Install one, then call this again:"
            say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default"
            say "    . \"\$HOME/.cargo/env\""
        } >&2
        exit 1
    fi
}

# The program to test: $FANSYNC, else the debug binary, built as the user who called.
fansync_binary() {
    local built
    if [[ -n ${FANSYNC:-} ]]; then
        printf '%s\n' "$FANSYNC"
        return
    fi
    need_cargo
    built=$(as_caller cargo build --quiet --bin fansync --message-format=json-render-diagnostics)
    sed -n 's/.*"name":"fansync".*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1
}

# The program of the kernel tests, built as the user who called.
kernel_tests_binary() {
    local built program
    need_cargo
    # Under json, cargo still renders errors on stderr.
    built=$(as_caller cargo test --quiet --no-run --test kernel --message-format=json-render-diagnostics)
    program=$(sed -n 's/.*"name":"kernel".*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
    [[ -x $program ]] || die "cargo did not say where it put the kernel tests"
    printf '%s\n' "$program"
}

# exec_as_root NAME,… WORD…: becomes that command as root; sudo resets the environment, so these variables are handed on.
exec_as_root() {
    local name settings=()
    for name in ${1//,/ }; do
        if [[ -n ${!name:-} ]]; then settings+=("$name=${!name}"); fi
    done
    shift
    if [[ $EUID -eq 0 ]]; then
        exec env ${settings[0]+"${settings[@]}"} "$@"
    fi
    have sudo || die "filesystems are mounted, which needs root: call this as root, or install sudo"
    exec sudo env ${settings[0]+"${settings[@]}"} "$@"
}

# need_filesystems LIST: what makes these filesystems (ext4,xfs,btrfs,tmpfs), and what a mirror of one is sent by.
need_filesystems() {
    local fs pairs=(rsync:rsync mount:mount)
    for fs in ${1//,/ }; do
        case $fs in
        ext4) pairs+=(mkfs.ext4:e2fsprogs) ;;
        xfs) pairs+=(mkfs.xfs:xfsprogs) ;;
        btrfs) pairs+=(mkfs.btrfs:btrfs-progs) ;;
        esac
    done
    need_commands "${pairs[@]}"
}

# after_word WORD DEFAULT ARG…: what follows WORD among the arguments.
after_word() {
    local word=$1 value=$2
    shift 2
    while [[ $# -gt 1 ]]; do
        if [[ $1 == "$word" ]]; then value=$2; fi
        shift
    done
    printf '%s\n' "$value"
}

# Installs the packages of the given command:package pairs whose command is missing; where that is not possible, tells what
# to install and ends.
need_commands() {
    local pair missing=() packages=()
    for pair in "$@"; do
        if ! have "${pair%%:*}"; then
            missing+=("$pair")
            packages+=("${pair#*:}")
        fi
    done
    if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
    if ! have apt-get; then
        say "Missing on this machine; install these with your package manager, then call this again:"
        for pair in "${missing[@]}"; do say "    ${pair%%:*}    (on Debian in the package ${pair#*:})"; done
        exit 1
    fi
    if [[ $EUID -ne 0 ]]; then
        say "Missing on this machine; install them, or call this again with sudo:"
        say "    sudo apt-get install ${packages[*]}"
        exit 1
    fi
    say "Installing ${packages[*]}"
    apt_install "${packages[@]}"
    for pair in "${missing[@]}"; do
        have "${pair%%:*}" || die "${pair%%:*} is missing although ${pair#*:} is installed"
    done
}

apt_install() {
    local policy=/usr/sbin/policy-rc.d own=0 status=0
    # Only programs are wanted: no package is to start a service (openssh-server would), now or at the next boot.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        own=1
    fi
    {
        DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
            DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
    } || status=$?
    if [[ $own -eq 1 ]]; then rm -f "$policy"; fi
    [[ $status -eq 0 ]] || die "apt-get could not install $*; its messages are above"
    if [[ " $* " == *" openssh-server "* && -d /run/systemd/system ]]; then
        systemctl --quiet disable ssh.service ssh.socket 2>/dev/null || true
    fi
}
