# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# The role backup: modules of the rsync daemon.

RSYNCD_CONF=/etc/rsyncd.conf
SECRETS=/etc/fansync/rsyncd.secrets

deploy_backup() {
    local numbers=0:0 module unit
    if [[ ${#MODULES[@]} -eq 0 && -e $ROOT/etc/rsyncd.d/fansync.conf && ${#HOSTS[@]} -eq 0 ]]; then
        wrong "no --module is given" "give the same options as the last time; what is as it should be is not touched"
    fi
    [[ ${#MODULES[@]} -gt 0 ]] || wrong "no --module NAME=DIR is given"
    [[ ${#HOSTS[@]} -gt 0 ]] || wrong "no --hosts-allow is given" "name the hosts that may log in, as --hosts-allow 172.16.1.31"
    check_modules
    need_program rsync "apt-get install rsync"
    begin_changes
    if [[ $RUN_AS != root ]]; then
        want_user "$RUN_AS" "$RUN_UID"
        numbers=$(numbers_of "$RUN_AS")
    fi
    want_dir "$CONFIG_DIR" 755 0:0
    if [[ $RUN_AS != root && $FAKE_SUPER -eq 1 ]]; then
        note "with fake super, symbolic links are files here that only rsync reads as links. Where the copy is to be served: --no-fake-super, or --run-as root"
    fi
    want_secrets
    for module in "${MODULES[@]}"; do want_dir "${module#*=}" 755 "$numbers"; done
    want_dir /etc/rsyncd.d 755 0:0
    modules_config >"$STAGE/modules"
    want_file "$STAGE/modules" /etc/rsyncd.d/fansync.conf 644 0:0 config
    want_globals
    unit=$(daemon_unit)
    if [[ $unit == fansync-rsyncd.service ]]; then want_unit "$here/packaging/deploy.d/fansync-rsyncd.service"; else want_mounts_first "$unit"; fi
    want_service "$unit" "rsync --daemon --no-detach"
    tell_of_guards "$(daemon_port)"
}

# check_modules: names and directories, and no name that the host has already.
check_modules() {
    local module name dir file line
    for module in "${MODULES[@]}"; do
        name=${module%%=*}
        dir=${module#*=}
        [[ $module == *=/* && $name =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ && $dir != / && $dir != */./* ]] ||
            wrong "--module $module is not of the form NAME=/DIRECTORY"
        for file in "$ROOT$RSYNCD_CONF" "$ROOT"/etc/rsyncd.d/*.conf; do
            if [[ ! -e $file || $file == */rsyncd.d/fansync.conf ]]; then continue; fi
            if line=$(grep -nE "^[[:space:]]*\[[[:space:]]*${name}[[:space:]]*\]" "$file"); then
                stop_because 1 "$file:${line%%:*} has a module [$name] already" \
                    "give this one another name, or take that section out: its settings and these would be mixed"
            fi
        done
    done
}

want_secrets() {
    if [[ -e $ROOT$SECRETS ]]; then (umask 077 && sed -n '1s/^[^:]*://p' "$ROOT$SECRETS" >"$STAGE/have"); fi
    password "$STAGE/password" "$STAGE/have" "sed 's/^[^:]*://' $ROOT$SECRETS"
    (umask 077 && printf '%s:%s\n' "$AUTH_USER" "$(cat "$STAGE/password")" >"$STAGE/secrets")
    want_file "$STAGE/secrets" "$SECRETS" 600 0:0 secret
}

# What stands in a global section, before or after, is outdone here where it could do harm.
modules_config() {
    local module fake=no
    if [[ $RUN_AS != root && $FAKE_SUPER -eq 1 ]]; then fake=yes; fi
    printf '# Written by scripts/deploy: modules that fansync sends to. rsync reads this anew for each connection.\n'
    for module in "${MODULES[@]}"; do
        cat <<END

[${module%%=*}]
    path = ${module#*=}
    uid = $RUN_AS
    gid = $(group_of_run_as)
    # As links are in the source; without a chroot they would be stored as /rsyncd-munged/….
    use chroot = yes
    munge symlinks = no
    # yes: owners, links and devices as attributes of files that belong to the user above.
    fake super = $fake
    numeric ids = yes
    read only = no
    write only = no
    list = no
    auth users = $AUTH_USER
    secrets file = $SECRETS
    strict modes = yes
    hosts allow = ${HOSTS[*]}
    reverse lookup = no
    # fansync holds 8 for each target by default.
    max connections = 64
    # More than standby_max_age (4 min).
    timeout = 600
    ignore errors = no
    ignore nonreadable = no
    refuse options =
    dont compress =
END
        # Files belong to this user here, whoever's they were: a set-ID program of a user of the source would be one of his.
        if [[ $RUN_AS != root && $fake == no ]]; then printf '    incoming chmod = Fug-s\n'; fi
    done
}

group_of_run_as() {
    local entry
    entry=$(entry_of passwd "$RUN_AS")
    if [[ -z $entry ]]; then printf '%s' "$RUN_AS"; else cut -d: -f4 <<<"$entry"; fi
}

# want_globals: the global part, which only rsyncd.conf itself has: kept, and extended at its head, before any module begins.
want_globals() {
    local at=$ROOT$RSYNCD_CONF lines='' found
    printf '# Written by scripts/deploy, for the global part. Small changes arrive several times faster with it.\nsocket options = TCP_NODELAY\n' >"$STAGE/globals"
    if [[ -e $at ]] && found=$(without_block "$at" | grep -niE '^[[:space:]]*socket[[:space:]]+options[[:space:]]*=' | head -n 1); then
        if [[ $found != *TCP_NODELAY* ]]; then
            note "$RSYNCD_CONF sets '${found#*:}', which is left alone. Add TCP_NODELAY to it: each change takes some 40 ms longer without"
        fi
    else
        want_file "$STAGE/globals" /etc/rsyncd.d/fansync.inc 644 0:0 config
        if ! includes merge; then lines="&merge /etc/rsyncd.d"; fi
    fi
    if ! includes include; then lines+=${lines:+$'\n'}"&include /etc/rsyncd.d"; fi
    if [[ ! -e $at ]] || is_recorded file "$RSYNCD_CONF"; then
        # Before a module is known only the global part counts, and a name server that is away would hold up each connection.
        lines="reverse lookup = no"$'\n'"$lines"
        if [[ $PORT != 873 ]]; then lines="port = $PORT"$'\n'"$lines"; fi
    fi
    if [[ -z $lines && -e $at ]] && grep -qxF -- "$BLOCK_BEGIN" "$at"; then return 0; fi
    if [[ -n $lines ]]; then want_lines_at_top "$RSYNCD_CONF" "$lines"; fi
}

# includes WORD: rsyncd.conf has &include or &merge of our directory besides the lines of ours.
includes() {
    [[ -e $ROOT$RSYNCD_CONF ]] && without_block "$ROOT$RSYNCD_CONF" | grep -qE "^[[:space:]]*&$1[[:space:]]+(=[[:space:]]*)?/etc/rsyncd\.d/?[[:space:]]*$"
}

daemon_port() {
    local port=''
    if [[ -e $ROOT$RSYNCD_CONF ]]; then port=$(sed -nE 's/^[[:space:]]*port[[:space:]]*=[[:space:]]*([0-9]+).*/\1/p' "$ROOT$RSYNCD_CONF" | tail -n 1); fi
    printf '%s' "${port:-$PORT}"
}

# The unit of the distribution's package reads the same rsyncd.conf.
daemon_unit() {
    local name
    for name in rsync.service rsyncd.service; do
        if unit_known "$name" >/dev/null; then
            printf '%s' "$name"
            return 0
        fi
    done
    printf 'fansync-rsyncd.service'
}

# want_mounts_first UNIT: the modules' filesystems are mounted before it starts, and homes are in its sight if they lie there.
want_mounts_first() {
    local module homes=''
    {
        printf '# Written by scripts/deploy.\n[Unit]\n'
        for module in "${MODULES[@]}"; do
            printf 'RequiresMountsFor=%s\n' "${module#*=}"
            case ${module#*=}/ in /home/* | /root/* | /run/user/*) homes=1 ;; esac
        done
        if [[ -n $homes ]]; then printf '[Service]\nProtectHome=no\n'; fi
    } >"$STAGE/drop-in"
    want_dir "/etc/systemd/system/$1.d" 755 0:0
    want_file "$STAGE/drop-in" "/etc/systemd/system/$1.d/fansync.conf" 644 0:0 unit
    if grep -qE '^PrivateDevices=(yes|on|true|1)' "$ROOT$(unit_known "$1")"; then
        note "$1 has PrivateDevices=, so device nodes cannot be made on this host; they are rare below a mirror"
    fi
}
