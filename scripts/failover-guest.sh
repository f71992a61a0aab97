#!/bin/bash
# Runs inside a guest (scripts/failover-scenes): primary, backup and web host as network namespaces on one bridge, real NFS between
# them, a workload with a ledger of what it was told is stored, and one scene.
#
#   failover-guest.sh VERSION SCENE      VERSION: 4.2 or 3. SCENE: cut, service
set -u
version=$1 scene=$2
fansync=/usr/local/bin/fansync
say() { echo "scene: $*"; }
now() { local up; read -r up _ </proc/uptime; echo "$up"; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
until_true() { # SECONDS COMMAND…
    local end
    end=$(awk -v a="$(now)" -v b="$1" 'BEGIN { print a + b }')
    shift
    until "$@"; do
        awk -v a="$(now)" -v b="$end" 'BEGIN { exit !(a > b) }' && return 1
        sleep 0.05
    done
}

# ---- network
printf 'passwd: files\nhosts: files\nservices: files\nprotocols: files\n' >/etc/nsswitch.conf
ip link add br0 type bridge && ip link set br0 up
n=0
for host in primary backup web; do
    n=$((n + 1))
    ip netns add "$host"
    ip link add "v$host" type veth peer name eth0 netns "$host"
    ip link set "v$host" master br0 up
    ip -n "$host" addr add "10.0.0.$n/24" dev eth0
    ip -n "$host" link set eth0 up
    ip -n "$host" link set lo up
done
echo 00112233445566778899aabbccddeeff >/etc/key && chmod 600 /etc/key

# ---- servers: each with file systems of its own for NFS's state
server() { # HOST ADDRESS PEER ROLE
    mkdir -p "/srv/$1" "/s/$1/state" && mount -t tmpfs "$1" "/srv/$1"
    $fansync failover role "/srv/$1" --set "$4" >/dev/null
    cat >"/s/$1/fansync.toml" <<TOML
[daemon]
state_dir = "/s/$1/state"
status_socket = "/s/$1/status.sock"
[[mirror]]
name = "data"
source = "/srv/$1"
roles = true
[[mirror.target]]
name = "peer"
url = "rsync://$3/data"
retry_max = "2s"
connect_timeout = "2s"
timeout = "10s"
TOML
    cat >"/s/$1/failover.toml" <<TOML
[daemon]
key_file = "/etc/key"
socket = "/s/$1/failover.sock"
run_dir = "/s/$1/run"
[server]
tree = "/srv/$1"
peer = "$3:7846"
mirror = "data"
mirror_socket = "/s/$1/status.sock"
exports = ["10.0.0.0/24:/srv/$1"]
export_options = "sync,no_subtree_check,no_root_squash,insecure,fsid=1"
TOML
    printf 'socket options = TCP_NODELAY\nuse chroot = no\n[data]\npath = /srv/%s\nread only = no\nuid = 0\ngid = 0\n' "$1" >"/s/$1/rsyncd.conf"
    cat >"/s/$1/start" <<SH
mount --make-rprivate / 2>/dev/null
mkdir -p /var/lib/nfs /run
mount -t tmpfs nfs-$1 /var/lib/nfs
mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/sm /var/lib/nfs/rpc_pipefs
: >/var/lib/nfs/etab; : >/var/lib/nfs/rmtab; : >/etc/exports
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 >/proc/fs/nfsd/nfsv4leasetime 2>/dev/null
echo 10 >/proc/fs/nfsd/nfsv4gracetime 2>/dev/null
if [ "$version" = 3 ]; then rpcbind -w 2>/dev/null; rpc.nfsd -V 3 -N 4 4; else rpc.nfsd -N 3 -V 4.2 4; fi
rpc.mountd --no-udp 2>/dev/null
rsync --daemon --config=/s/$1/rsyncd.conf
$fansync run --config /s/$1/fansync.toml >/s/$1/mirror.log 2>&1 &
$fansync failover --config /s/$1/failover.toml >/s/$1/failover.log 2>&1 &
echo \$\$ >/s/$1/pid
exec sleep 100000
SH
    ip netns exec "$1" unshare -m bash "/s/$1/start" >"/s/$1/start.log" 2>&1 &
}
server primary 10.0.0.1 10.0.0.2 primary
server backup 10.0.0.2 10.0.0.1 follower

writable() { grep -q '"writable":true' <<<"$($fansync failover status --json --socket "/s/$1/failover.sock" 2>/dev/null)"; }
until_true 90 writable primary || say "the primary is not exported read-write"

# ---- client
mkdir -p /srv/www /s/web
cat >/s/web/failover.toml <<TOML
[daemon]
key_file = "/etc/key"
socket = "/s/web/failover.sock"
run_dir = "/s/web/run"
[[failover]]
name = "web"
mount = "/srv/www"
failback = "manual"
[failover.primary]
host = "10.0.0.1"
export = "/srv/primary"
version = "$version"
options = "hard"
[failover.backup]
host = "10.0.0.2"
export = "/srv/backup"
version = "$version"
options = "hard"
TOML
cat >/s/web/start <<SH
mount --make-rprivate / 2>/dev/null
# As a unit with Restart=always does.
while :; do $fansync failover --config /s/web/failover.toml >>/s/web/failover.log 2>&1; sleep 1; done &
echo \$\$ >/s/web/pid
exec sleep 100000
SH
ip netns exec web unshare -m bash /s/web/start >/s/web/start.log 2>&1 &

in_web() { nsenter --target "$(cat /s/web/pid)" --mount --net -- "$@"; }
status() { $fansync failover status --json --socket "/s/$1/failover.sock" 2>/dev/null; }
web_on() { status web | grep -q "\"on\":\"$1\""; }
whole() { status "$1" | grep -q '"peer_whole":true'; }
ready() { status web | grep -q '"ready":true.*"ready":true'; }
fail() {
    say "FAILED: $*"
    for f in /s/*/start.log /s/*/failover.log /s/*/mirror.log; do echo "--- $f"; tail -25 "$f"; done
    $fansync failover status --socket /s/web/failover.sock
    dmesg 2>/dev/null | tail -5
    exit 1
}
until_true 120 web_on primary || fail "the web host has not mounted the primary"
until_true 60 whole primary || fail "the backup holds no whole copy"
until_true 60 ready || fail "the backup is not mounted aside"

# ---- workload: each line of the ledger is a promise that was made to it. sync(1) with a file is fsync(2).
cat >/s/web/work <<'SH'
n=0
while [ ! -e /s/web/stop ]; do
    f=/srv/www/f$n
    if echo "content $n" >"$f" 2>/dev/null && sync "$f" 2>/dev/null; then
        read -r up _ </proc/uptime
        grep -q ' /srv/www nfs' /proc/self/mounts || echo "LOCAL f$n" >>/s/web/ledger
        src=$(tac /proc/self/mounts | awk '$2 == "/srv/www" { print $1; exit }')
        echo "$up f$n $src" >>/s/web/ledger
    else
        read -r up _ </proc/uptime
        echo "$up failed" >>/s/web/errors
    fi
    n=$((n + 1))
    sleep 0.02
done
SH
: >/s/web/ledger
: >/s/web/errors
worker() { nsenter --target "$(cat /s/web/pid)" --mount --net -- bash /s/web/work & }
worker
stored_on() { grep -q "10.0.0.$1:" /s/web/ledger; }
until_true 60 stored_on 1 || fail "nothing is stored on the primary"
sleep 3

# ---- the scene
cut=$(now)
case $scene in
    cut) ip link set vprimary down ;;
    service) nsenter --target "$(cat /s/primary/pid)" --mount --net -- rpc.nfsd 0 ;;
esac
until_true 60 web_on backup || fail "the web host is not on the backup"
say "on_backup_seconds $(since "$cut")"
# A writer that was blocked on the dead server stays so where the kernel cannot end it: the application is started again.
until_true 3 stored_on 2 || worker
until_true 60 stored_on 2 || fail "nothing is stored on the backup"
first=$(awk '/10.0.0.2:/ { print $1; exit }' /s/web/ledger)
say "first_write_seconds $(awk -v a="$cut" -v b="$first" 'BEGIN { printf "%.2f", b - a }')"
say "switch_seconds $(status web | grep -o '"last_switch_seconds":[0-9.]*' | cut -d: -f2)"
say "how $(status web | grep -o '"last_switch":"[^"]*"')"
sleep 3

# ---- the primary is back
case $scene in
    cut) ip link set vprimary up ;;
    service) nsenter --target "$(cat /s/primary/pid)" --mount --net -- rpc.nfsd 4 ;;
esac
until_true 90 whole backup || fail "the old primary holds no whole copy again"
until_true 60 ready || fail "the primary is not mounted aside"
: >/s/web/errors
until_true 60 $fansync failover failback --socket /s/web/failover.sock >/s/web/failback.log 2>&1 || fail "no fail-back: $(tail -3 /s/web/failback.log)"
until_true 30 web_on primary || fail "the web host is not back on the primary"
sleep 2
touch /s/web/stop
sleep 1

# ---- what was lost
say "failback_errors $(wc -l </s/web/errors)"
say "failback_pause_seconds $(awk '/ f[0-9]+ / { if (src == "10.0.0.2:/srv/backup" && $3 ~ /10.0.0.1/) { printf "%.2f", $1 - last; exit } last = $1; src = $3 }' /s/web/ledger)"
lost=0 aside=0 told=0
while read -r _ f src; do
    case $src in 10.0.0.*) ;; *) continue ;; esac
    told=$((told + 1))
    [ -e "/srv/primary/$f" ] && continue
    if compgen -G "/srv/primary/.fansync/conflict/*/*/$f" >/dev/null; then aside=$((aside + 1)); else
        lost=$((lost + 1))
        say "lost $f of $src"
    fi
done < <(grep -v LOCAL /s/web/ledger)
umount -l /srv/www 2>/dev/null
say "acknowledged $told lost $lost kept_aside $aside local $(grep -c LOCAL /s/web/ledger)"
[ "$lost" = 0 ] || fail "acknowledged writes are lost"
