# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# The roles web and server: the failover monitor, one configuration for both.

FAILOVER_CONFIG=$CONFIG_DIR/failover.toml
FAILOVER_KEY=$CONFIG_DIR/failover.key

deploy_web() {
    if [[ -z $MOUNT && -z $PRIMARY && -z $BACKUP && -e $ROOT$FAILOVER_CONFIG ]]; then
        deploy_monitor
        return
    fi
    [[ -n $MOUNT && -n $PRIMARY && -n $BACKUP ]] || wrong "web needs --mount, --primary and --backup"
    [[ $PRIMARY == *:/* && $BACKUP == *:/* ]] || wrong "--primary and --backup are of the form HOST:/DIRECTORY"
    web_config >"$STAGE/config"
    need_program mount.nfs "apt-get install nfs-common"
    deploy_monitor "$MOUNT"
    if [[ -z $ROOT ]] && awk -v at="$MOUNT" '$1 !~ /^#/ && $2 == at { found = 1 } END { exit !found }' /etc/fstab 2>/dev/null; then
        note "/etc/fstab has a line for $MOUNT, which is left alone: take it out, or give it noauto; the monitor mounts by itself"
    fi
}

deploy_server() {
    if [[ -z $TREE && -z $PEER && -e $ROOT$FAILOVER_CONFIG ]]; then
        deploy_monitor
        return
    fi
    [[ -n $TREE && -n $PEER && ${#CLIENTS[@]} -gt 0 ]] || wrong "server needs --tree, --peer and --clients"
    server_config >"$STAGE/config"
    need_program exportfs "apt-get install nfs-kernel-server"
    deploy_monitor
    note "give the tree its role once: $(program) failover role $TREE --set primary (on the other server: follower)"
    if [[ -z $ROOT ]] && grep -qE "^${TREE}[[:space:]].*[(,]rw[,)]" /etc/exports 2>/dev/null; then
        note "/etc/exports has $TREE as rw, which is left alone: list it as ro or not at all, the monitor exports it"
    fi
    tell_of_guards 7846
}

# deploy_monitor [MOUNT]
deploy_monitor() {
    find_binary
    if [[ -e $STAGE/config ]]; then check_config "$STAGE/config" "$FAILOVER_CONFIG"; else check_config "$ROOT$FAILOVER_CONFIG" "$ROOT$FAILOVER_CONFIG"; fi
    begin_changes
    want_program
    if [[ -z $packaged ]]; then want_unit "$here/packaging/systemd/fansync-failover.service"; fi
    want_dir "$CONFIG_DIR" 755 0:0
    if [[ -e $STAGE/config ]]; then
        want_key
        want_file "$STAGE/config" "$FAILOVER_CONFIG" 644 0:0 config
    fi
    if [[ -n ${1:-} ]]; then want_dir "$1" 755 0:0; fi
    tell_check "$FAILOVER_CONFIG"
    want_service fansync-failover.service "$(program) failover --config $FAILOVER_CONFIG"
}

want_key() {
    local new=$STAGE/key
    (umask 077 && : >"$new")
    if [[ -n $KEY_FILE ]]; then
        [[ -r $KEY_FILE ]] || stop_because 1 "there is no file $KEY_FILE" "--key-file takes a file with 32 hex digits: openssl rand -hex 16"
        grep -qxE '[0-9a-fA-F]{32}' "$KEY_FILE" || stop_because 1 "$KEY_FILE does not hold 32 hex digits" "make one: openssl rand -hex 16"
        cat "$KEY_FILE" >"$new"
    elif [[ -e $ROOT$FAILOVER_KEY ]]; then
        cat "$ROOT$FAILOVER_KEY" >"$new"
    else
        od -An -vtx1 -N16 /dev/urandom | tr -d ' \n' >"$new"
        echo >>"$new"
        note "a key is made up. All hosts need the same: take $ROOT$FAILOVER_KEY there and give it to --key-file"
    fi
    want_file "$new" "$FAILOVER_KEY" 600 0:0 secret
}

web_config() {
    local side place host
    printf '# Written by scripts/deploy. docs/failover.md has every key; after a change: fansync check --config FILE.\n'
    printf '[daemon]\nkey_file = "%s"\n\n' "$FAILOVER_KEY"
    printf '[[failover]]\nname = "web"\nmount = %s\nfailback = "%s"\n' "$(quoted "$MOUNT")" "$FAILBACK"
    for side in primary="$PRIMARY" backup="$BACKUP"; do
        # An IPv6 address stands in brackets, as mount.nfs has it.
        place=${side#*=}
        host=${place%%:/*}
        host=${host#[}
        printf '\n[failover.%s]\nhost = %s\nexport = %s\nversion = %s\n' "${side%%=*}" "$(quoted "${host%]}")" "$(quoted "/${place#*:/}")" "$(quoted "$NFS_VERSION")"
    done
}

server_config() {
    local client exports=() peer=$PEER
    for client in "${CLIENTS[@]}"; do exports+=("$client:$TREE"); done
    if [[ $peer != *:* ]]; then peer=$peer:7846; fi
    printf '# Written by scripts/deploy. docs/failover.md has every key; after a change: fansync check --config FILE.\n'
    printf '[daemon]\nkey_file = "%s"\n\n' "$FAILOVER_KEY"
    printf '[server]\ntree = %s\npeer = %s\nmirror = %s\nexports = %s\n' "$(quoted "$TREE")" "$(quoted "$peer")" \
        "$(quoted "${MIRROR:-$(basename "$TREE")}")" "$(quoted_list "${exports[@]}")"
    printf 'export_options = "sync,no_subtree_check,fsid=1"\n'
}
