# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# Units, and starting them where systemd is the one that starts things.

systemd_runs() { [[ -z $ROOT && -d /run/systemd/system ]]; }

# unit_known UNIT: whether the host has it, and where.
unit_known() {
    local dir
    for dir in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        if [[ -e $ROOT$dir/$1 ]]; then
            printf '%s\n' "$dir/$1"
            return 0
        fi
    done
    return 1
}

# want_unit FILE: into /etc/systemd/system, with the program where it was put.
want_unit() {
    local name
    name=$(basename "$1")
    sed -E "s#^(Exec[A-Za-z]*=[-@:+!]*)[^ ]*/fansync #\\1$(program) #" "$1" >"$STAGE/$name"
    want_dir /etc/systemd/system 755 0:0
    want_file "$STAGE/$name" "/etc/systemd/system/$name" 644 0:0 unit
}

reload_units() {
    if [[ $units_changed -eq 0 ]] || ! systemd_runs; then return 0; fi
    say "  \$ systemctl daemon-reload"
    if [[ $DRY -eq 0 ]]; then systemctl daemon-reload; fi
}

# SYSTEMCTL_SKIP_SYSV, below: Debian's rsync has an init script as well, whose links in /etc/rc?.d would be turned and not come back as they were.

# want_service UNIT BY_HAND: enabled and running; what runs and has another unit, program or configuration by now is told of it.
# BY_HAND: the command that starts it without systemd.
want_service() {
    local unit=$1
    if [[ $START -eq 0 ]]; then
        note "not started, as asked for. Start it with: systemctl enable --now $unit"
        return
    elif ! systemd_runs; then
        note "not started: systemd does not run here${ROOT:+ (--root)}. Where it does: systemctl enable --now $unit; elsewhere, in the foreground: $2"
        return
    fi
    reload_units
    if ! systemctl is-enabled --quiet "$unit" 2>/dev/null; then
        change '$' "systemctl enable $unit"
        if [[ $DRY -eq 0 ]]; then
            record enabled "$unit"
            SYSTEMCTL_SKIP_SYSV=1 systemctl --quiet enable "$unit"
        fi
    fi
    if ! systemctl is-active --quiet "$unit" 2>/dev/null; then
        change '$' "systemctl start $unit"
        if [[ $DRY -eq 0 ]]; then
            record started "$unit"
            systemctl start "$unit" || stop_because 1 "$unit does not start" "journalctl -u $unit tells why; then call this again"
        fi
    elif [[ $changes -gt 0 ]]; then
        local how=reload-or-restart
        if [[ $units_changed -eq 1 || $binary_changed -eq 1 ]]; then how=restart; fi
        change '$' "systemctl $how $unit"
        if [[ $DRY -eq 0 ]]; then
            systemctl "$how" "$unit" || stop_because 1 "$unit does not take the change" "journalctl -u $unit tells why; then call this again"
        fi
    fi
}

take_back_service() {
    local what=(stop "$2")
    if [[ $1 == enabled ]]; then what=(--quiet disable "$2"); fi
    if ! systemd_runs || others_need "$1" "$2"; then return 0; fi
    if [[ $1 == started ]] && ! systemctl is-active --quiet "$2" 2>/dev/null; then return 0; fi
    if [[ $1 == enabled ]] && ! systemctl is-enabled --quiet "$2" 2>/dev/null; then return 0; fi
    change '$' "systemctl ${what[*]}"
    if [[ $DRY -eq 0 ]]; then SYSTEMCTL_SKIP_SYSV=1 systemctl "${what[@]}"; fi
}

# What is never touched, and may stand in the way.
tell_of_guards() {
    local port=$1
    if [[ -n $ROOT ]]; then return 0; fi
    if [[ -n $port ]] && { have nft || have iptables || have firewall-cmd; }; then
        note "the firewall is left alone: TCP port $port has to be open to the hosts that need it"
    fi
    if have getenforce && [[ $(getenforce) == Enforcing ]]; then
        note "SELinux enforces, and is left alone: see ausearch -m avc if something is denied (rsync_full_access, and labels of the tree)"
    fi
}
