# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# The role source: fansync itself.

deploy_source() {
    local name=${INSTANCE:-fansync} config unit password
    config=$CONFIG_DIR/$name.toml
    password=$CONFIG_DIR/$name.pass
    unit=fansync.service
    if [[ -n $INSTANCE ]]; then unit=fansync@$INSTANCE.service; fi
    check_source_options "$config"
    find_binary
    need_program rsync "apt-get install rsync"
    write_source_config "$config" "$password"
    refuse_another_tree "$config"
    begin_changes
    want_program
    if [[ -z $packaged ]]; then want_unit "$here/packaging/systemd/${unit/@*./@.}"; fi
    want_dir "$CONFIG_DIR" 755 0:0
    if [[ -e $STAGE/config ]]; then
        if grep -qF "\"$password\"" "$STAGE/config"; then
            password "$STAGE/password" "$ROOT$password" "$ROOT$password"
            want_file "$STAGE/password" "$password" 600 0:0 secret
        fi
        # A password of sersync's refreshCDN is in the file itself.
        want_given "$NATS_PASSWORD_FILE" "$CONFIG_DIR/$name.nats" --nats-password-file
        want_file "$STAGE/config" "$config" "$(if grep -q '^password = ' "$STAGE/config"; then printf 600; else printf 644; fi)" 0:0 config
    fi
    if [[ -n $INSTANCE ]]; then
        want_dir /var/lib/fansync 700 0:0
        want_dir "/var/lib/fansync/$INSTANCE" 700 0:0 tree
    else
        want_dir /var/lib/fansync 700 0:0 tree
    fi
    tell_check "$config"
    want_limits "$config"
    tell_of_sersync
    want_service "$unit" "$(program) run --config $config"
    tell_of_guards ""
}

check_source_options() {
    if [[ -n $CONFXML ]]; then
        [[ -z $SOURCE && ${#TARGETS[@]} -eq 0 && ${#EXCLUDES[@]} -eq 0 ]] || wrong "--confxml says what --source, --target and --exclude would say"
        [[ -r $CONFXML ]] || stop_because 1 "there is no file $CONFXML" "--confxml takes the file that sersync gets with -o"
        if [[ -n $PASSWORD_FILE ]]; then wrong "the configuration of sersync's names its own password file, so --password-file does nothing"; fi
        if [[ -n $FEED ]]; then wrong "--confxml says where everything goes; write a [[mirror.feed]] into what it makes"; fi
    elif [[ -n $SOURCE ]]; then
        [[ ${#TARGETS[@]} -gt 0 || -n $FEED ]] || wrong "--source needs a --target or a --feed"
        if [[ -n $FEED && ($ROLES -eq 1 || $DELETE -eq 0) ]]; then wrong "--roles and --no-delete are not for a mirror with a --feed"; fi
    elif [[ ! -e $ROOT$1 ]]; then
        wrong "neither --source with --target nor --confxml is given, and there is no $ROOT$1"
    fi
}

# write_source_config CONFIG PASSWORD: what the options mean, checked, to $STAGE/config; no such file where they say nothing and the
# configuration that is there stays.
write_source_config() {
    local new=$STAGE/config flags
    if [[ -n $CONFXML ]]; then
        read -ra flags <<<"$SERSYNC"
        (umask 077 && "$binary" import --show-secrets ${flags[0]+"${flags[@]}"} "$CONFXML" >"$new") || stop_because 78 "fansync import refuses $CONFXML" "correct what is said above; --sersync takes -r, -n N and -m NAME"
        daemon_config >>"$new"
    elif [[ -n $SOURCE ]]; then
        source_config "$2" >"$new"
        if [[ -n $FEED ]]; then
            printf '\n[[mirror.feed]]\nname = "feed"\n' >>"$new"
            feed_keys "$(basename "$1" .toml)" source >>"$new"
        fi
    else
        new=$ROOT$1
    fi
    check_config "$new" "$1"
}

# trees_of FILE: the sources that a configuration names, a line for each.
trees_of() { sed -n 's/^source = "\(.*\)"$/\1/p' "$1" | sort -u; }

# refuse_another_tree CONFIG: a call for another tree would end the mirror that an earlier one made.
refuse_another_tree() {
    local at=$ROOT$1 gone
    if [[ $REPLACE -eq 1 || ! -e $STAGE/config || ! -f $at ]]; then return 0; fi
    # One that an administrator wrote or changed stays anyway.
    is_recorded file "$1" "$(sha "$at")" || is_recorded changed "$1" "$(sha "$at")" || return 0
    gone=$(comm -23 <(trees_of "$at") <(trees_of "$STAGE/config") | paste -sd, -)
    if [[ -n $gone ]]; then
        stop_because 1 "$at mirrors $gone, which this call does not name: that mirror would end" \
            "a second mirror on this host takes --instance NAME, or a [[mirror]] that you write into $at; --replace puts the new configuration in the old one's place"
    fi
}

daemon_config() {
    if [[ -n $INSTANCE || -n $METRICS ]]; then printf '\n[daemon]\n'; fi
    if [[ -n $INSTANCE ]]; then printf 'state_dir = "/var/lib/fansync/%s"\nstatus_socket = "/run/fansync/%s.sock"\n' "$INSTANCE" "$INSTANCE"; fi
    if [[ -n $METRICS ]]; then printf 'metrics = %s\n' "$(quoted "$METRICS")"; fi
}

source_config() {
    local word name url count=0
    printf '# Written by scripts/deploy. docs/config.md has every key; after a change: fansync check --config FILE.\n'
    daemon_config
    name=$(basename "$SOURCE" | tr -c 'A-Za-z0-9_.\n-' _ | sed 's/^[.-]/_/' | cut -c1-64)
    printf '\n[[mirror]]\nname = %s\nsource = %s\n' "$(quoted "$name")" "$(quoted "$SOURCE")"
    if [[ $DELETE -eq 0 ]]; then printf 'delete = false\n'; fi
    if [[ $ROLES -eq 1 ]]; then
        # An NFS 4 server keeps files open for as long as a client does.
        printf 'roles = true\nfollow_open_files = true\nfollow_interval = "200ms"\n'
    fi
    if [[ ${#EXCLUDES[@]} -gt 0 ]]; then printf 'exclude = %s\n' "$(quoted_list "${EXCLUDES[@]}")"; fi
    for word in "${TARGETS[@]}"; do
        count=$((count + 1))
        url=$word
        name=backup$(if [[ $count -gt 1 ]]; then printf -- '-%d' "$count"; fi)
        if [[ $word =~ ^([A-Za-z0-9_.-]+)=(.*)$ ]]; then
            name=${BASH_REMATCH[1]}
            url=${BASH_REMATCH[2]}
        fi
        printf '\n[[mirror.target]]\nname = %s\nurl = %s\n' "$(quoted "$name")" "$(quoted "$url")"
        if [[ $url == rsync://*@* || $url == *@*::* ]]; then printf 'password_file = %s\n' "$(quoted "$1")"; fi
    done
}

# want_limits CONFIG: only inotify, the fallback, has a limit that is too low for large trees. Which one it is shows by trying.
want_limits() {
    local trees tree dirs=0 limit want=8192
    if [[ -n $ROOT ]]; then return 0; fi
    trees=$(sed -n 's/^source = "\(.*\)"$/\1/p' "$STAGE/config" 2>/dev/null || true)
    while IFS= read -r tree; do
        if [[ -z $tree || ! -d $tree ]]; then continue; fi
        case $(watched_by "$tree") in
        fanotify) ;;
        inotify) dirs=$((dirs + $(find "$tree" -xdev -type d -printf . 2>/dev/null | wc -c))) ;;
        *) note "how $tree is watched could not be tried; fansync status tells it" ;;
        esac
    done <<<"$trees"
    if [[ $dirs -eq 0 ]]; then return 0; fi
    note "fanotify does not work for this tree, so inotify watches each of its $dirs directories"
    limit=$(cat /proc/sys/fs/inotify/max_user_watches)
    while [[ $want -lt $((dirs * 2)) ]]; do want=$((want * 2)); done
    printf '# fansync watches %s directories here with inotify.\nfs.inotify.max_user_watches = %s\n' "$dirs" "$want" >"$STAGE/sysctl"
    if [[ $limit -ge $want ]] && ! is_recorded file /etc/sysctl.d/60-fansync.conf; then return 0; fi
    if is_recorded file /etc/sysctl.d/60-fansync.conf && [[ $limit -ge $((dirs * 2)) ]]; then return 0; fi
    want_dir /etc/sysctl.d 755 0:0
    want_file "$STAGE/sysctl" /etc/sysctl.d/60-fansync.conf 644 0:0 config
    change '$' "sysctl fs.inotify.max_user_watches=$want (was $limit)"
    if [[ $DRY -eq 0 ]]; then
        record sysctl fs.inotify.max_user_watches "$limit"
        sysctl -q -w "fs.inotify.max_user_watches=$want"
    fi
}

# watched_by DIR: fanotify or inotify, from a daemon that watches it for a moment, sends nothing and is told to leave all out.
watched_by() {
    local trial=$STAGE/trial pid end
    mkdir -p "$trial"
    printf '[daemon]\nstate_dir = "%s/state"\nstatus_socket = "%s/sock"\n[[mirror]]\nname = "trial"\nsource = %s\nexclude = ["*"]\ninitial = "none"\n[[mirror.hook]]\nname = "none"\nkind = "command"\nprefix = "/bin/true"\n' \
        "$trial" "$trial" "$(quoted "$1")" >"$trial/config"
    "$binary" run --config "$trial/config" >"$trial/log" 2>&1 &
    pid=$!
    end=$((SECONDS + 10))
    while kill -0 "$pid" 2>/dev/null && [[ $SECONDS -lt $end ]] && ! grep -q 'socket=' "$trial/log"; do sleep 0.05; done
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    if grep -q 'by="inotify"' "$trial/log"; then
        printf inotify
    elif grep -q 'by="fanotify"' "$trial/log"; then
        printf fanotify
    fi
    rm -rf "$trial"
}

# A sersync beside would undo and repeat what fansync does. Ending it is the administrator's.
tell_of_sersync() {
    local dir file
    if [[ -n $ROOT ]]; then return 0; fi
    for dir in /proc/[0-9]*; do
        case $(cat "$dir/comm" 2>/dev/null) in
        sersync | sersync2) note "sersync still runs as process ${dir#/proc/}, and is left alone: end it, or both send the same files" ;;
        esac
    done
    for file in /etc/systemd/system/*sersync*.service /usr/lib/systemd/system/*sersync*.service; do
        if [[ -e $file ]]; then note "there is a unit $file: systemctl disable --now $(basename "$file"), or it starts again at boot"; fi
    done
}
