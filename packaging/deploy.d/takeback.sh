# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# --uninstall: the records of a role, last first, each taken back if it still is what was made.

take_back_all() {
    local line kind path first second
    if [[ ! -e $(manifest) ]]; then
        say "nothing to take back: there is no record $(manifest)"
        forget
        return 0
    fi
    if [[ $DRY -eq 0 ]]; then begin_changes; fi
    refuse_while_running
    local -A seen=()
    while IFS= read -r line; do
        IFS=$'\t' read -r kind path first second <<<"$line"
        if [[ -n ${seen[$kind $path]:-} ]]; then continue; fi
        seen[$kind $path]=1
        case $kind in
        file) take_back_file "$path" ;;
        changed) take_back_change "$path" "$second" ;;
        dir) take_back_dir "$path" ;;
        tree) take_back_tree "$path" ;;
        user | group) take_back_account "$kind" "$path" ;;
        sysctl) take_back_sysctl "$path" "$first" ;;
        enabled | started) take_back_service "$kind" "$path" ;;
        *) stop_because 70 "the record $(manifest) has a line that is not understood: $line" "was it written by a newer scripts/deploy? use that one" ;;
        esac
    done < <(services_first)
    reload_units
    forget
}

services_first() {
    tac "$(manifest)" | grep -E '^(started|enabled)' || true
    tac "$(manifest)" | grep -vE '^(started|enabled)' || true
}

# A daemon would write its state anew behind our back.
refuse_while_running() {
    local pid config
    if [[ -n $ROOT ]] || systemd_runs; then return 0; fi
    while IFS=$'\t' read -r _ config _; do
        case $config in *.toml) ;; *) continue ;; esac
        for pid in $(running_with "$config"); do
            stop_because 1 "process $pid still runs with $config" "end it first: kill $pid"
        done
    done < <(grep '^file' "$(manifest)")
}

# running_with FILE: the processes of the program that name FILE; seen from another mount namespace they are other programs.
running_with() {
    local dir
    for dir in /proc/[0-9]*; do
        if [[ $dir/exe -ef $(program) ]] && tr '\0' '\n' <"$dir/cmdline" 2>/dev/null | grep -qxF -- "$1"; then
            printf '%s\n' "${dir#/proc/}"
        fi
    done
}

take_back_file() {
    local at=$ROOT$1
    if [[ $DRY -eq 0 ]]; then rm -f "$at$SUFFIX"; fi
    if [[ ! -e $at && ! -L $at ]]; then return 0; fi
    if others_need file "$1"; then
        keep "$1 is used by another role"
    elif [[ -f $at ]] && recorded_sum_is file "$1"; then
        change - "file $1"
        case $1 in */systemd/system/*) units_changed=1 ;; esac
        if [[ $DRY -eq 0 ]]; then rm -f "$at"; fi
    elif [[ -f $at ]] && grep -qxF -- "$BLOCK_BEGIN" "$at"; then
        cut_block "$1"
    else
        keep "$1 was changed since it was put there and is kept"
    fi
}

# cut_block PATH: an administrator's file, less the lines of ours.
cut_block() {
    local at=$ROOT$1
    without_block "$at" >"$STAGE/lines"
    change '~' "file $1: without the lines of fansync; what else was changed stays"
    if [[ $DRY -eq 1 ]]; then
        show_change "$1" "$STAGE/lines" config
    else
        put "$STAGE/lines" "$1" "$(stat -c %a "$at")" "$(stat -c %u:%g "$at")"
    fi
}

# recorded_sum_is KIND PATH: what is there is what one of our own records says. An update that was interrupted leaves two of them.
recorded_sum_is() {
    awk -F'\t' -v kind="$1" -v path="$2" -v sum="$(sha "$ROOT$2")" \
        '$1 == kind && $2 == path && $3 == sum { found = 1 } END { exit !found }' "$(manifest)"
}

take_back_change() {
    local path=$1 at=$ROOT$1 copy=$ROOT$STATE/saved/$2
    if [[ $DRY -eq 0 ]]; then rm -f "$at$SUFFIX"; fi
    if [[ ! -e $at ]]; then
        keep "$path was removed since; how it was before is in $copy"
        saved_needed=1
    elif cmp -s "$at" "$copy"; then
        return 0
    elif recorded_sum_is changed "$path"; then
        change '~' "file $path: as it was before"
        if [[ $DRY -eq 1 ]]; then
            show_change "$path" "$copy" config
        else
            cp -a "$copy" "$at$SUFFIX"
            mv -T "$at$SUFFIX" "$at"
        fi
    elif grep -qxF -- "$BLOCK_BEGIN" "$at"; then
        cut_block "$path"
    else
        keep "$path was changed since and is kept; how it was before is in $copy"
        saved_needed=1
    fi
}

take_back_dir() {
    if [[ ! -d $ROOT$1 ]] || others_need dir "$1"; then return 0; fi
    if [[ $DRY -eq 1 ]]; then
        change - "directory $1, if it is empty then"
    elif rmdir "$ROOT$1" 2>/dev/null; then
        change - "directory $1"
    elif mountpoint -q "$ROOT$1"; then
        keep "$1 is kept, for something is mounted there"
    else
        keep "$1 is kept, for something is in it"
    fi
}

take_back_tree() {
    if [[ ! -d $ROOT$1 ]]; then return 0; fi
    if others_need tree "$1" below; then
        keep "$1 is used by another role"
        return 0
    fi
    change - "directory $1 with what the service has put there"
    if [[ $DRY -eq 0 ]]; then rm -rf --one-file-system "$ROOT${1:?}"; fi
}

take_back_account() {
    local kind=$1 name=$2 entry prefix
    if others_need "$kind" "$name"; then return 0; fi
    mapfile -t prefix < <(in_prefix)
    if [[ $kind == group ]]; then
        # userdel takes a group of the user's name along.
        if [[ -z $(entry_of group "$name") || ($DRY -eq 1 && -n $(entry_of passwd "$name")) ]]; then return 0; fi
        if [[ -n $(entry_of passwd "$name") ]]; then
            keep "the group $name is kept with its user"
            return 0
        fi
        change - "group $name"
        if [[ $DRY -eq 0 ]]; then groupdel ${prefix[0]+"${prefix[@]}"} "$name"; fi
        return 0
    fi
    entry=$(entry_of passwd "$name")
    if [[ -z $entry ]]; then
        return 0
    elif [[ $(cut -d: -f5 <<<"$entry") != "$MADE_BY" ]]; then
        keep "the user $name is another one by now and is kept"
    else
        change - "user $name"
        if [[ $DRY -eq 0 ]]; then userdel ${prefix[0]+"${prefix[@]}"} "$name"; fi
    fi
}

take_back_sysctl() {
    if [[ -n $ROOT ]] || others_need sysctl "$1"; then return 0; fi
    change '~' "sysctl $1 = $2"
    if [[ $DRY -eq 0 ]]; then sysctl -q -w "$1=$2"; fi
}

# forget: the records of this role go, and the directory with the last one.
forget() {
    local name
    if [[ $DRY -eq 1 ]]; then return 0; fi
    if [[ ${saved_needed:-0} -eq 0 ]]; then
        while IFS=$'\t' read -r _ _ _ name; do
            if [[ -n $name ]]; then rm -f "$ROOT$STATE/saved/$name"; fi
        done < <(grep '^changed' "$(manifest)" 2>/dev/null)
    fi
    rm -f "$(manifest)"
    rmdir "$ROOT$STATE/saved" 2>/dev/null || true
    if ! compgen -G "$ROOT$STATE/*.manifest" >/dev/null; then
        rm -f "$ROOT$STATE/lock"
        rmdir "$ROOT$STATE" 2>/dev/null || true
    fi
}
