# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# What several roles need: the program, secrets, TOML.

CONFIG_DIR=/etc/fansync

# program: where the program is, or will be, on the host.
program() {
    if [[ -n ${packaged:-} ]]; then printf '/usr/bin/fansync'; else printf '/usr/local/bin/fansync'; fi
}

# find_binary: sets `binary`, a program that can be run here, and `packaged` where it is a package's.
find_binary() {
    packaged=
    if [[ -n $BINARY ]]; then
        binary=$BINARY
    elif [[ -x ${CARGO_TARGET_DIR:-$here/target}/release/fansync ]]; then
        binary=${CARGO_TARGET_DIR:-$here/target}/release/fansync
    elif [[ -x $ROOT/usr/bin/fansync ]] && unit_known fansync.service >/dev/null; then
        packaged=1
        binary=$ROOT/usr/bin/fansync
    else
        need_cargo
        if [[ $DRY -eq 1 ]]; then stop_because 69 "there is no program yet, so its configuration cannot be checked" "build it: cargo build --release"; fi
        say "building fansync (this takes some minutes the first time)"
        (cd "$here" && as_caller cargo build --quiet --release --bin fansync)
        binary=${CARGO_TARGET_DIR:-$here/target}/release/fansync
    fi
    [[ -x $binary && -f $binary ]] || stop_because 69 "there is no program at $binary" "give --binary FILE, or build it: cargo build --release"
    "$binary" --version >/dev/null 2>&1 || stop_because 69 "$binary does not run here" "give --binary a program for this machine"
}

want_program() {
    if [[ -n $packaged ]]; then return 0; fi
    want_dir /usr/local/bin 755 0:0
    want_file "$binary" /usr/local/bin/fansync 755 0:0 binary
}

# quoted TEXT: as a string of TOML. Control characters were refused with the options.
quoted() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# quoted_list TEXT…
quoted_list() {
    local word comma=
    printf '['
    for word in "$@"; do
        printf '%s%s' "$comma" "$(quoted "$word")"
        comma=', '
    done
    printf ']'
}

# password NEW HAVE WHERE: one line into NEW, from --password-file, else from HAVE if there is one, else made up; WHERE tells how to take it along.
password() {
    local new=$1
    (umask 077 && : >"$new")
    if [[ -n $PASSWORD_FILE ]]; then
        [[ -r $PASSWORD_FILE ]] || stop_because 1 "there is no file $PASSWORD_FILE" "--password-file takes a file whose first line is the password"
        head -n 1 "$PASSWORD_FILE" >"$new"
        grep -q . "$new" || stop_because 1 "the first line of $PASSWORD_FILE is empty" "it has to be the password"
    elif [[ -e $2 ]]; then
        cat "$2" >"$new"
    else
        head -c 24 /dev/urandom | base64 >"$new"
        note "a password is made up. The other host needs the same, as its --password-file: $3"
    fi
}

# check_config FILE PLACE: `fansync check` of a file that is to lie at PLACE; what is wrong ends everything before anything is changed.
check_config() {
    local said
    said=$("$binary" check --config "$1" 2>&1) || {
        printf '%s\n' "${said//$1/$2}" >&2
        stop_because 78 "the configuration is wrong, so nothing was changed" "correct the options, or the file they come from"
    }
}

# tell_check FILE: what it warns of once everything is in place.
tell_check() {
    local line
    if [[ $DRY -eq 1 || -n $ROOT ]]; then return 0; fi
    while IFS= read -r line; do
        note "fansync check: $line"
    done < <("$(program)" check --config "$1" 2>&1 | grep -v '^the configuration is valid')
    "$(program)" check --config "$1" >/dev/null 2>&1 || stop_because 78 "fansync check refuses $1" "correct what is said there, then call this again"
}

need_program() {
    if [[ -z $ROOT ]] && ! have "$1"; then stop_because 69 "$1 is missing" "install it: $2"; fi
    if [[ -n $ROOT && ! -e $ROOT/usr/bin/$1 && ! -e $ROOT/usr/sbin/$1 && ! -e $ROOT/sbin/$1 ]]; then note "$1 is not in $ROOT yet: install it there ($2)"; fi
}
