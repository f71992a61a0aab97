# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# The roles hub and follower: the NATS server of a change feed, and a copy that follows it.

HUB_CONFIG=$CONFIG_DIR/hub.conf
HUB_SECRETS=$CONFIG_DIR/hub
HUB_USER=fansync-hub
HUB_STORE=/var/lib/fansync-hub

deploy_hub() {
    local user numbers server
    if [[ -z $FEED && ${#FOLLOWERS[@]} -eq 0 && -e $ROOT$HUB_CONFIG ]]; then
        wrong "no --feed is given" "give the same options as the last time; what is as it should be is not touched"
    fi
    [[ $FEED =~ ^[A-Za-z0-9_-]{1,64}$ ]] || wrong "hub needs --feed NAME, of letters, digits, - and _"
    for user in ${RELAYS[0]+"${RELAYS[@]}"}; do
        [[ $user =~ ^[A-Za-z0-9_-]+=rsync://[^/]+/.+$ ]] || wrong "--relay $user is not of the form NAME=rsync://HOST/MODULE"
        FOLLOWERS+=("${user%%=*}")
    done
    [[ ${#FOLLOWERS[@]} -gt 0 ]] || wrong "no --follower NAME is given" "each follower of the feed logs in by its own name"
    [[ -z $CERT && -z $KEY || -n $CERT && -n $KEY ]] || wrong "--cert and --key go together"
    for user in "${FOLLOWERS[@]}"; do
        [[ $user =~ ^[A-Za-z0-9_-]{1,64}$ && $user != source ]] || wrong "--follower $user is not a name of letters, digits, - and _, or it is 'source'"
    done
    need_program nats-server "apt-get install nats-server"
    server=$(PATH="$PATH:/usr/sbin:/sbin" command -v nats-server || printf /usr/sbin/nats-server)
    begin_changes
    want_user "$HUB_USER"
    numbers=$(numbers_of "$HUB_USER")
    want_dir "$CONFIG_DIR" 755 0:0
    want_dir "$HUB_SECRETS" 700 0:0
    for user in source "${FOLLOWERS[@]}"; do want_hub_password "$user"; done
    if [[ -n $CERT ]]; then
        [[ -r $CERT && -r $KEY ]] || stop_because 1 "there is no file $CERT or $KEY" "--cert and --key take the server's certificate and its key, in PEM"
        want_file "$CERT" "$CONFIG_DIR/hub.pem" 644 0:0 secret
        want_file "$KEY" "$CONFIG_DIR/hub.key" 640 "0:${numbers#*:}" secret
    else
        note "without --cert and --key everybody on the way can read names of files and passwords: for networks that are trusted"
    fi
    (umask 077 && hub_config >"$STAGE/hub.conf")
    check_hub "$server" "$STAGE/hub.conf"
    want_file "$STAGE/hub.conf" "$HUB_CONFIG" 640 "0:${numbers#*:}" hidden
    want_dir "$HUB_STORE" 700 "$numbers" tree
    sed "s#^ExecStart=[^ ]*#ExecStart=$server#" "$here/packaging/deploy.d/fansync-hub.service" >"$STAGE/fansync-hub.service"
    want_dir /etc/systemd/system 755 0:0
    want_file "$STAGE/fansync-hub.service" /etc/systemd/system/fansync-hub.service 644 0:0 unit
    want_service fansync-hub.service "$server -c $HUB_CONFIG (as the user $HUB_USER)"
    if systemd_runs && systemctl is-active --quiet nats-server.service 2>/dev/null; then
        note "nats-server.service of the distribution runs as well, and is left alone: with the same port only one of them starts"
    fi
    note "each host needs its password as --nats-password-file: $ROOT$HUB_SECRETS/NAME.pass, with NAME source or a follower's"
    tell_of_guards "${LISTEN##*:}"
}

# want_hub_password USER: as it is, or made up.
want_hub_password() {
    local at=$HUB_SECRETS/$1.pass
    (umask 077 && if [[ -e $ROOT$at ]]; then cat "$ROOT$at"; else head -c 24 /dev/urandom | base64 | tr '+/' '-_'; fi >"$STAGE/$1.pass")
    want_file "$STAGE/$1.pass" "$at" 600 0:0 secret
}

# What docs/fan-out.md has.
hub_config() {
    local user stream relay api='' comma='' own reads=''
    if [[ ${#RELAYS[@]} -gt 0 ]]; then reads=", \"fansync.relay.$FEED.*\""; fi
    for stream in "FANSYNC_$FEED" "FANSYNC_AT_$FEED"; do
        for user in STREAM.INFO STREAM.CREATE STREAM.UPDATE DIRECT.GET; do
            api+="$comma\"\$JS.API.$user.$stream\""
            comma=', '
        done
    done
    printf '# Written by scripts/deploy. docs/fan-out.md tells what it is; after a change: systemctl reload fansync-hub.\n'
    printf 'listen: "%s"\njetstream { store_dir: "%s" }\n' "$LISTEN" "$HUB_STORE"
    if [[ -n $CERT ]]; then printf 'tls { cert_file: "%s/hub.pem", key_file: "%s/hub.key" }\n' "$CONFIG_DIR" "$CONFIG_DIR"; fi
    printf 'accounts { FEED { jetstream: enabled, users: [\n'
    printf '  { user: source, password: "%s", permissions: {\n' "$(cat "$STAGE/source.pass")"
    printf '      publish: ["fansync.%s", %s],\n' "$FEED" "$api"
    printf '      subscribe: ["_INBOX.>", "fansync.at.%s.*"] } }\n' "$FEED"
    for user in "${FOLLOWERS[@]}"; do
        printf '  { user: %s, password: "%s", permissions: {\n' "$user" "$(cat "$STAGE/$user.pass")"
        own=''
        if [[ -n $reads ]]; then own=", \"\$JS.API.DIRECT.GET.FANSYNC_AT_$FEED\""; fi
        for relay in ${RELAYS[0]+"${RELAYS[@]}"}; do
            if [[ ${relay%%=*} == "$user" ]]; then own+=", \"fansync.relay.$FEED.$(relay_key "${relay#*=}")\""; fi
        done
        # shellcheck disable=SC2016 # the name of a subject
        printf '      publish: ["fansync.at.%s.%s", "$JS.API.DIRECT.GET.FANSYNC_%s"%s],\n' "$FEED" "$user" "$FEED" "$own"
        printf '      subscribe: ["_INBOX.>", "fansync.live.%s"%s] } }\n' "$FEED" "$reads"
    done
    printf '] } }\n'
}

# relay_key URL: what stands for it in the names of subjects (docs/feed.md).
relay_key() {
    local text=${1#rsync://} host at byte
    host=${text%%/*}
    host=${host##*@}
    text=${text#*/}
    text=$(tr '[:upper:]' '[:lower:]' <<<"${host%:873}")/${text%/}
    for ((at = 0; at < ${#text}; at++)); do
        byte=${text:at:1}
        case $byte in
        .) printf _ ;;
        [a-zA-Z0-9-]) printf '%s' "$byte" ;;
        *) printf '=%02X' "'$byte" ;;
        esac
    done
}

# check_hub SERVER FILE: what nats-server says of it, with the files where they are now.
check_hub() {
    local said
    if [[ ! -x $1 ]]; then return 0; fi
    (umask 077 && sed "s#\"$CONFIG_DIR/hub.pem\"#\"$CERT\"#; s#\"$CONFIG_DIR/hub.key\"#\"$KEY\"#" "$2" >"$STAGE/hub.trial")
    said=$("$1" -t -c "$STAGE/hub.trial" 2>&1) || {
        printf '%s\n' "$said" >&2
        stop_because 78 "nats-server refuses the configuration, so nothing more was changed" "correct the options"
    }
}

deploy_follower() {
    local name=${INSTANCE:-fansync} config unit
    config=$CONFIG_DIR/$name.toml
    unit=fansync.service
    if [[ -n $INSTANCE ]]; then unit=fansync@$INSTANCE.service; fi
    if [[ -n $FEED$DIRECTORY || ${#UPSTREAMS[@]} -gt 0 ]]; then
        [[ -n $FEED && ${#UPSTREAMS[@]} -gt 0 && -n $DIRECTORY ]] || wrong "follower needs --feed, --upstream and --directory"
    elif [[ ! -e $ROOT$config ]]; then
        wrong "neither --feed with --upstream and --directory is given, nor is there $ROOT$config"
    fi
    find_binary
    need_program rsync "apt-get install rsync"
    if [[ -n $FEED ]]; then
        follower_config "$name" >"$STAGE/config"
        check_config "$STAGE/config" "$config"
    else
        check_config "$ROOT$config" "$ROOT$config"
    fi
    begin_changes
    want_program
    if [[ -z $packaged ]]; then want_unit "$here/packaging/systemd/${unit/@*./@.}"; fi
    want_dir "$CONFIG_DIR" 755 0:0
    if [[ -e $STAGE/config ]]; then
        want_dir "$DIRECTORY" 755 0:0
        want_given "$PASSWORD_FILE" "$CONFIG_DIR/$name.pass" --password-file
        want_given "$NATS_PASSWORD_FILE" "$CONFIG_DIR/$name.nats" --nats-password-file
        want_file "$STAGE/config" "$config" 644 0:0 config
    fi
    if [[ -n $INSTANCE ]]; then
        want_dir /var/lib/fansync 700 0:0
        want_dir "/var/lib/fansync/$INSTANCE" 700 0:0 tree
    else
        want_dir /var/lib/fansync 700 0:0 tree
    fi
    tell_check "$config"
    want_service "$unit" "$(program) run --config $config"
    tell_of_guards ""
}

# want_given FROM PATH OPTION: the first line of a file that an option names, if it was given.
want_given() {
    if [[ -z $1 ]]; then return 0; fi
    [[ -r $1 ]] || stop_because 1 "there is no file $1" "$3 takes a file whose first line is the password"
    (umask 077 && head -n 1 "$1" >"$STAGE/given")
    grep -q . "$STAGE/given" || stop_because 1 "the first line of $1 is empty" "it has to be the password"
    want_file "$STAGE/given" "$2" 600 0:0 secret
}

# feed_keys NAME USER: where the feed is, and the login.
feed_keys() {
    local server servers=()
    while IFS= read -r server; do
        if [[ $server != *://* ]]; then server=${FEED%%://*}://$server; fi
        servers+=("$server")
    done < <(tr ',' '\n' <<<"${FEED%/*}")
    printf 'servers = %s\nfeed = %s\n' "$(quoted_list "${servers[@]}")" "$(quoted "${FEED##*/}")"
    if [[ -n $NATS_PASSWORD_FILE ]]; then
        printf 'nats_user = %s\nnats_password_file = %s\n' "$(quoted "$2")" "$(quoted "$CONFIG_DIR/$1.nats")"
    fi
    if [[ -n $CA_FILE ]]; then printf 'ca_file = %s\n' "$(quoted "$CA_FILE")"; fi
}

# feed_name DIRECTORY: what a mirror of it is called.
feed_name() { basename "$1" | tr -c 'A-Za-z0-9_.\n-' _ | sed 's/^[.-]/_/' | cut -c1-64; }

follower_config() {
    local who=${FOLLOWER_NAME:-$(uname -n | tr -c 'A-Za-z0-9_\n-' -)}
    printf '# Written by scripts/deploy. docs/config.md has every key; after a change: fansync check --config FILE.\n'
    daemon_config
    printf '\n[[follow]]\nname = %s\nfollower = %s\n' "$(quoted "$(feed_name "$DIRECTORY")")" "$(quoted "$who")"
    feed_keys "$1" "${NATS_USER:-$who}"
    printf 'directory = %s\n' "$(quoted "$DIRECTORY")"
    if [[ ${#UPSTREAMS[@]} -eq 1 ]]; then printf 'upstream = %s\n' "$(quoted "${UPSTREAMS[0]}")"; else printf 'upstream = %s\n' "$(quoted_list "${UPSTREAMS[@]}")"; fi
    if [[ -n $SERVE ]]; then printf 'serve = %s\n' "$(quoted "$SERVE")"; fi
    if [[ -n $PASSWORD_FILE ]]; then printf 'password_file = %s\n' "$(quoted "$CONFIG_DIR/$1.pass")"; fi
    if [[ -n $MAX_DELETE ]]; then printf 'max_delete = %s\n' "$MAX_DELETE"; fi
    if [[ ${#EXCLUDES[@]} -gt 0 ]]; then printf 'exclude = %s\n' "$(quoted_list "${EXCLUDES[@]}")"; fi
}
