#!/usr/bin/bash
# Runs inside a guest (scripts/vm/failover): primary, backup and web host as network namespaces on one bridge, real NFS between
# them, an application with a ledger of what it was told is stored (scripts/vm/failover-work.rs), and scenes one after the other, each with
# its fail-back.
#
#   failover-guest.sh VERSION HOW SCENE…      VERSION: 4.2 or 3. SCENE: see scripts/vm/failover. HOW: fansync, or usual: the script
#                                             that sersync sites use, in place of fansync failover
# shellcheck disable=SC2016,SC2317 # awk programs; functions that until_true calls
set -u
version=$1 how=$2
shift 2
scenes=("$@")
scene=''
fansync=/usr/local/bin/fansync
work=/usr/local/bin/failover-work
say() { echo "scene: ${scene:+$scene: }$*"; }
now() {
    local up
    read -r up _ </proc/uptime
    echo "$up"
}
minus() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a - b }'; }
usual() { [ "$how" = usual ]; }
# How slow this guest is: the time in which it starts an rsync, in steps of 150 ms, which a quiet emulated processor does not exceed. Times that are
# waited for, and pauses of the application, are so many times as long: what is judged is what was lost, and not the speed of a busy machine.
slow=1
calibrate() {
    local begun took
    begun=$(now)
    for _ in 1 2 3 4 5 6 7 8 9 10; do rsync --version >/dev/null; done
    took=$(minus "$(now)" "$begun")
    slow=$(awk -v took="$took" 'BEGIN { n = int(took * 100 / 150) + 1; print (n > 8 ? 8 : n) }')
    say "ten rsyncs started in $took s: times and pauses $slow times as long"
}
until_true() { # SECONDS COMMAND…
    local end=$((SECONDS + $1 * slow))
    shift
    until "$@"; do
        if ((SECONDS > end)); then return 1; fi
        sleep 0.2
    done
}
fail() {
    local f
    say "FAILED: $*"
    for f in /s/*/start.log /s/*/failover.log /s/*/mirror.log; do
        if [ -s "$f" ]; then echo "--- $f" && tail -40 "$f"; fi
    done
    grep -v ' ok ' /s/web/ledger | tail -20
    usual || $fansync failover status --socket /s/web/failover.sock
    tell_kernel
    exit 1
}
# What the kernels know of who waits for what.
tell_kernel() {
    local task host f waits stat
    for task in /proc/[0-9]*/task/[0-9]*; do
        waits='' stat=''
        read -r waits <"$task/wchan"
        read -r stat <"$task/stat"
        case "$waits $stat" in
            *rpc_wait* | *nfs4_wait* | *folio_wait* | *rwsem_down* | *") D "*) echo "--- ${stat:0:40} $waits" && head -12 "$task/stack" ;;
        esac
    done 2>/dev/null
    for host in primary backup; do
        if ! init_of $host >/dev/null 2>&1; then continue; fi
        echo "--- $host: threads $(in_host $host cat /proc/fs/nfsd/threads), grace ended $(in_host $host cat /proc/fs/nfsd/v4_end_grace), gracetime" \
            "$(in_host $host cat /proc/fs/nfsd/nfsv4gracetime), lease $(in_host $host cat /proc/fs/nfsd/nfsv4leasetime)"
        in_host $host exportfs -v
        for f in auth.unix.ip nfsd.export nfsd.fh; do in_host $host tail -n +1 "/proc/net/rpc/$f/content"; done
    done 2>&1
    echo "--- mounts of the web host" && in_host web grep -E ' /srv| nfs' /proc/self/mountinfo
    dmesg 2>/dev/null | tail -15
}
mkdir -p /s/primary /s/backup /s/web /srv/www

calibrate

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

# ---- hosts: each with processes, mounts and NFS state of its own, so that its power can be cut
start() { # HOST
    ip netns exec "$1" unshare --mount --pid --fork --kill-child --mount-proc bash "/s/$1/start" >>"/s/$1/start.log" 2>&1 &
    echo $! >"/s/$1/unshare"
}
init_of() {
    local parent
    parent=$(cat "/s/$1/unshare")
    tr -d ' ' <"/proc/$parent/task/$parent/children"
}
in_host() { # HOST COMMAND…
    local host=$1
    shift
    nsenter --target "$(init_of "$host")" --mount --net --pid -- "$@"
}
power_on() {
    start "$1"
    ip link set "v$1" up
}
power_off() {
    local init
    ip link set "v$1" down
    init=$(init_of "$1")
    kill -9 "$init"
    # The NFS server's threads are the kernel's, which has to forget its clients as well.
    ip netns exec "$1" unshare --mount bash -c 'mount -t nfsd nfsd /proc/fs/nfsd && echo 0 >/proc/fs/nfsd/threads' &
    until_true 30 test ! -d "/proc/$init"
}

# ---- servers
# Beforehand: of two that mount nfsd at once, one can come while its module is being loaded, and gets none.
modprobe -a nfsd nfs nfsv3 nfsv4 || fail "no NFS in this kernel"
options="sync,no_subtree_check,no_root_squash,insecure,fsid=1"
if [ "$version" = 3 ]; then
    echo '_rpc:x:107:65534::/run/rpcbind:/bin/false' >>/etc/passwd # whom rpcbind runs as
    cat >/s/nfsd <<'NFSD'
#!/usr/bin/bash
mkdir -p /run/rpcbind
[ -S /run/rpcbind.sock ] || rpcbind -w
until (exec 3<>/dev/tcp/127.0.0.1/111) 2>/dev/null; do sleep 0.1; done
rpc.nfsd -V 3 -N 4 4
NFSD
else
    printf '#!/usr/bin/bash\nrpc.nfsd -N 3 -V 4.2 4\n' >/s/nfsd
fi
chmod +x /s/nfsd
server_files() { # HOST PEER
    local exportfs=exportfs
    if [[ " ${scenes[*]}" = *" power-"* ]]; then exportfs=/s/$1/exportfs; fi
    cat >"/s/$1/fansync.toml" <<TOML
[daemon]
state_dir = "/s/$1/state"
status_socket = "/s/$1/status.sock"
[[mirror]]
name = "data"
source = "/srv/$1"
roles = true
follow_open_files = true
follow_interval = "200ms"
[mirror.batch] # few processes of rsync, of which an emulated processor starts some a second
settle = "500ms"
max_delay = "1s"
[[mirror.target]]
name = "peer"
url = "rsync://$2/data"
jobs = 1
small_jobs = 1
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
peer = "$2:7846"
mirror = "data"
mirror_socket = "/s/$1/status.sock"
exports = ["10.0.0.0/24:/srv/$1"]
export_options = "$options"
exportfs = "$exportfs"
flush_timeout = "$((10 * slow))s" # an emulated mirror is slow
TOML
    # Steps of the fail-back at which somebody's power is cut: told to the scene, which does it.
    cat >"/s/$1/exportfs" <<EXPORTFS
#!/usr/bin/bash
step() {
    [ "\$(cat /s/cut-at 2>/dev/null)" = "$1 \$1" ] || return 0
    mv /s/cut-at /s/cut-now
    until [ -e /s/cut-done ]; do sleep 0.01; done
}
mode=\${2%%,*}
step "before \$mode"
exportfs "\$@" || exit
step "after \$mode"
EXPORTFS
    chmod +x "/s/$1/exportfs"
    printf 'socket options = TCP_NODELAY\nuse chroot = no\n[data]\npath = /srv/%s\nread only = no\nuid = 0\ngid = 0\n' "$1" >"/s/$1/rsyncd.conf"
    cat >"/s/$1/start" <<START
mount --make-rprivate / 2>/dev/null
mkdir -p /var/lib/nfs /run
mount -t tmpfs nfs-$1 /var/lib/nfs
mount -t tmpfs run-$1 /run
mkdir -p /var/lib/nfs/nfsdcld /var/lib/nfs/sm /var/lib/nfs/rpc_pipefs
mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs
: >/var/lib/nfs/etab; : >/var/lib/nfs/rmtab; : >/etc/exports
mount -t nfsd nfsd /proc/fs/nfsd || exit
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
nfsdcld
/s/nfsd
rpc.mountd --no-udp -p 20048 2>/dev/null
rsync --daemon --config=/s/$1/rsyncd.conf
START
    if usual; then
        echo "exportfs -o rw,$options 10.0.0.0/24:/srv/$1"
        # As sersync with its common settings: what has changed within the last second, and no deletes.
        if [ "$1" = primary ]; then
            echo "while :; do rsync -a --timeout=5 --contimeout=2 /srv/$1/ rsync://$2/data/; sleep 1; done >/s/$1/mirror.log 2>&1 &"
        fi
    else
        echo "$fansync run --config /s/$1/fansync.toml >>/s/$1/mirror.log 2>&1 &"
        echo "$fansync failover --config /s/$1/failover.toml >>/s/$1/failover.log 2>&1 &"
    fi >>"/s/$1/start"
    echo 'exec sleep 100000' >>"/s/$1/start"
}
server() { # HOST PEER ROLE
    mkdir -p "/srv/$1" "/s/$1/state" && mount -t tmpfs "$1" "/srv/$1"
    usual || $fansync failover role "/srv/$1" --set "$3" >/dev/null
    server_files "$1" "$2"
    power_on "$1"
}
server primary 10.0.0.2 primary
server backup 10.0.0.1 follower

status() { $fansync failover status --json --socket "/s/$1/failover.sock" 2>/dev/null; }
writable() { status "$1" | grep -q '"writable":true'; }
exported() { in_host primary exportfs 2>/dev/null | grep -q /srv/primary; }
if usual; then until_true 90 exported; else until_true 90 writable primary; fi || fail "the primary is not exported read-write"

# ---- web host
mount_options=hard
if [ "$version" = 3 ]; then mount_options=hard,nolock,mountport=20048; fi
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
options = "$mount_options"
[failover.backup]
host = "10.0.0.2"
export = "/srv/backup"
version = "$version"
options = "$mount_options"
TOML
# Every 10 s: ping; lazy and forced umount; mount; pull afterwards.
cat >/s/web/usual <<USUAL
answers() { ping -c 3 -W 1 "\$1" >/dev/null 2>&1; }
on() { awk '\$2 == "/srv/www" { at = \$1 } END { print at }' /proc/self/mounts; }
while :; do
    if answers 10.0.0.1; then
        if [ "\$(on)" != 10.0.0.1:/srv/primary ]; then
            umount -lf /srv/www
            mount -t nfs -o vers=$version,$mount_options 10.0.0.1:/srv/primary /srv/www || continue
            for try in 1 2 3 4; do rsync -az -R 10.0.0.2::data/ /srv/www && break; sleep 5; done
            touch /s/web/pulled
        fi
    elif answers 10.0.0.2 && [ "\$(on)" = 10.0.0.1:/srv/primary ]; then
        umount -lf /srv/www
        mount -t nfs -o vers=$version,$mount_options,retry=1,timeo=3 10.0.0.2:/srv/backup /srv/www
    fi
    sleep 10
done
USUAL
echo 'mount --make-rprivate / 2>/dev/null' >/s/web/start
if usual; then
    echo "mount -t nfs -o vers=$version,$mount_options 10.0.0.1:/srv/primary /srv/www"
    echo "bash /s/web/usual >/s/web/failover.log 2>&1 &"
else
    # As a unit with Restart=always does.
    echo "while :; do $fansync failover --config /s/web/failover.toml >>/s/web/failover.log 2>&1; sleep 1; done &"
fi >>/s/web/start
echo 'exec sleep 100000' >>/s/web/start
start web

mounted() { in_host web awk '$2 == "/srv/www" { at = $1 } END { print at }' /proc/self/mounts; }
web_on() {
    if usual; then [[ $(mounted) == *":/srv/$1" ]]; else status web | grep -q "\"on\":\"$1\""; fi
}
whole() { usual || status "$1" | grep -q '"peer_whole":true'; }
ready() { usual || status web | grep -q '"ready":true.*"ready":true'; }
alarm() { status web | grep -q "\"alarm\":\"$1\""; }
until_true 120 web_on primary || fail "the web host has not mounted the primary"

# ---- the application
: >/s/web/ledger
echo "$slow" >/s/web/pace
application() { # FIRST
    nsenter --target "$(init_of web)" --mount --net --pid -- $work run /srv/www /s/web/ledger /s/web/stop "$1" /s/web/pace &
}
application 0
stored_on() { tail -n "+$2" /s/web/ledger | grep -q " ok .* 10.0.0.$1:"; }
lines() { wc -l </s/web/ledger; }

# ---- the primary dies
dies() {
    from=$(($(lines) + 1))
    since=$(date -u +%Y-%m-%dT%H:%M:%S)
    cut=$(now)
    case $scene in
        service) in_host primary rpc.nfsd 0 ;;
        reboot | both | power-*) power_off primary ;;
        grace)
            # A client that the backup's NFS server knows, and that goes with the primary: it is waited for.
            # ip netns exec mounts the /sys of that namespace.
            ip netns exec primary bash -c 'echo other >/sys/fs/nfs/net/nfs_client/identifier
                mount -t nfs -o vers=4.2 10.0.0.2:/srv/backup /mnt && exec sleep 1000' &
            until_true 30 grep -q ' /mnt nfs' "/proc/$!/mounts" || fail "no second client"
            since=$(date -u +%Y-%m-%dT%H:%M:%S)
            cut=$(now)
            ip link set vprimary down
            in_host backup bash -c 'rpc.nfsd 0 && /s/nfsd'
            say "grace time of the backup ended: $(in_host backup cat /proc/fs/nfsd/v4_end_grace)"
            ;;
        *) ip link set vprimary down ;;
    esac
}
on_backup() { # tells what is measured on the way
    local patience=60 first
    if usual; then patience=420; fi
    if ! until_true $patience web_on backup; then
        usual || fail "the web host is not on the backup"
        say "never switched within $patience s"
        exit 0
    fi
    say "on_backup_seconds $(minus "$(now)" "$cut")"
    until_true 60 stored_on 2 "$from" || fail "nothing is stored on the backup"
    first=$(tail -n "+$from" /s/web/ledger | awk '/ ok .* 10.0.0.2:/ { print $1; exit }')
    say "first_write_seconds $(minus "$first" "$cut")"
    if usual; then return; fi
    say "switch_seconds $(status web | grep -o '"last_switch_seconds":[0-9.e-]*' | cut -d: -f2)"
    say "how $(status web | grep -o '"last_switch":"[^"]*"')"
    # What took how long, by the monitor's clock.
    grep -hE 'answer|primary|moved|blocked|down|grace|acknowledged' /s/web/failover.log /s/backup/failover.log /s/primary/failover.log |
        awk -v since="$since" '$1 >= since { print "  " $0 }' | sort
    say "blocked_processes $(status web | grep -o '"stuck":\[[^]]*\]' | grep -o '"pid"' | wc -l)"
}
comes_back() {
    case $scene in
        service) in_host primary /s/nfsd ;;
        reboot | both | power-*) power_on primary ;;
        *) ip link set vprimary up ;;
    esac
}
switches() { status web | grep -o '"switches":[0-9]*' | cut -d: -f2; }
disturb() {
    case $scene in
        flap)
            local before
            before=$(switches)
            for _ in 1 2 3 4 5 6 7 8; do
                ip link set vprimary down && sleep 1
                ip link set vprimary up && sleep 1.3
            done
            say "switches $(($(switches) - before)), then on $(mounted)"
            ;;
        stuck)
            # Pages that cannot be written back, and somebody whose working directory is there.
            in_host web bash -c 'cd /srv/www && dd if=/dev/zero of=big bs=1M count=48 conv=fsync 2>/dev/null; sleep 1000' &
            sleep 0.3
            ;;
    esac
    dies
    on_backup
    sleep 3
    if [ "$scene" = both ]; then both_dead; else comes_back; fi
}
both_dead() {
    power_off backup
    until_true 60 alarm both_dead || fail "no alarm although both are dead"
    comes_back
    until_true 60 alarm copy_not_whole || fail "the old primary alone, which lacks writes, raised no alarm"
    web_on backup || fail "switched to a server that lacks writes"
    power_on backup
    from=$(($(lines) + 1))
    until_true 90 stored_on 2 "$from" || fail "nothing is stored on the backup after its return"
    say "told, not switched to the older state, went on when the backup was back"
}
# The application writes half as much from here on.
slower() {
    local pace
    pace=$(($(cat /s/web/pace) * 2))
    say "the mirror does not follow at this load: pauses $pace times as long"
    echo "$pace" >/s/web/pace
}
# As an operator does: what is refused for its load is asked again with less of it.
ordered_with_less_load() {
    ordered && return
    if grep -q 'changes come faster than the mirror carries them' /s/web/failback.log && [ "$(cat /s/web/pace)" -lt 64 ]; then slower; fi
    return 1
}
ordered() { $fansync failover failback --socket /s/web/failover.sock >/s/web/failback.log 2>&1; }
settled() {
    if web_on primary; then writable primary && ! writable backup; else web_on backup && writable backup && ! writable primary; fi
}
# The power of a server is cut at a step of the fail-back.
interrupted() {
    local victim=backup side=1 name=primary
    rm -f /s/cut-now /s/cut-done
    case ${scene#power-} in
        before-ro) echo "backup before ro" >/s/cut-at ;;
        after-ro) echo "backup after ro" >/s/cut-at ;;
        before-rw) echo "primary before rw" >/s/cut-at && victim=primary ;;
        after-rw) echo "primary after rw" >/s/cut-at && victim=primary ;;
        peer-before-rw) echo "primary before rw" >/s/cut-at ;;
        peer-after-rw) echo "primary after rw" >/s/cut-at ;;
        *) fail "no such step" ;;
    esac
    ordered &
    until_true 60 test -e /s/cut-now || fail "the step was not reached"
    power_off $victim
    touch /s/cut-done
    sleep 8
    power_on $victim
    until_true 90 settled || fail "after the power cut there is not one writable server with the client on it"
    say "after_power_cut on $(mounted)"
    from=$(($(lines) + 1))
    if web_on backup; then side=2 name=backup; fi
    until_true 60 stored_on $side "$from" || fail "nothing is stored after the power cut"
    until_true 120 whole $name || fail "the other server holds no whole copy"
    until_true 60 ready || fail "the other server is not mounted aside"
}
fail_back() {
    until_true 120 whole backup || fail "the old primary holds no whole copy again"
    until_true 60 ready || fail "the primary is not mounted aside"
    if [ "$scene" = load ]; then
        application 1000000
        sleep 2
    fi
    case $scene in power-*) interrupted ;; esac
    back=$(($(lines) + 1))
    if usual; then
        until_true 200 test -e /s/web/pulled || fail "the usual script has not pulled"
        rm /s/web/pulled
    elif ! web_on primary; then
        until_true 240 ordered_with_less_load || fail "no fail-back: $(tail -3 /s/web/failback.log)"
        until_true 30 web_on primary || fail "the web host is not back on the primary"
        echo "$slow" >/s/web/pace
    fi
    until_true 30 stored_on 1 "$back" || fail "nothing is stored on the primary after the fail-back"
    # By hand once more: it is there already, which is no error.
    usual || ordered || fail "a second fail-back is an error: $(cat /s/web/failback.log)"
    sleep 3
    say "failback_pause_seconds $(tail -n "+$back" /s/web/ledger | awk '/ ok / { if (/10\.0\.0\.2:/) last = $1; else if (/10\.0\.0\.1:/ && last) { printf "%.2f", $1 - last; exit } }')"
    usual || say "hand_over $(grep -h ' handed over: ' /s/backup/failover.log | tail -1 | grep -oE '(pause|whole)=[^ ]*' | tr '\n' ' ')"
    say "failback_errors $(tail -n "+$back" /s/web/ledger | grep -c ' error ')"
}
verdict() { # so far
    local bad=''
    $work check /s/web/ledger /srv/primary /srv/backup >/s/web/verdict || bad=1
    grep '^LOST' /s/web/verdict | head -20
    grep -v '^ledger\|^LOST' /s/web/verdict | head -10
    say "$(grep '^ledger' /s/web/verdict)"
    usual || [ -z "$bad" ] || fail "acknowledged writes are lost"
}

for scene in "${scenes[@]}"; do
    until_true 60 web_on primary || fail "the web host is not on the primary"
    until_true 60 stored_on 1 "$(($(lines) + 1))" || fail "nothing is stored on the primary"
    until_true 60 whole primary || fail "the backup holds no whole copy"
    until_true 60 ready || fail "the backup is not mounted aside"
    sleep 4
    disturb
    fail_back
    verdict
done
touch /s/web/stop
sleep 1
in_host web umount -l /srv/www
say "under_the_mount $(in_host web ls -A /srv/www 2>/dev/null | wc -l)"
exit 0
