#!/usr/bin/bash
# Runs inside a guest (scripts/vm/nfs): an NFS server whose exported tree fansync mirrors, and clients of several versions that change it.
#
#   nfs-guest.sh FOLLOW VERSION…      FOLLOW: the value of follow_open_files, or default. VERSION: 3 or 4.2
# shellcheck disable=SC2016,SC2317 # perl programs; functions that are called by name
set -u
follow=$1
shift
fansync=/usr/local/bin/fansync
socket=/s/status.sock
src=/m/src dst=/m/dst
version='' bad=0 steps=0
say() { echo "nfs: ${version:+v$version: }$*"; }
die() {
    say "FAILED: $*"
    tail -40 /s/mirror.log
    exit 1
}
until_true() { # SECONDS COMMAND…, of this guest's clock
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS > end)); then return 1; fi
        sleep 0.1
    done
}

# ---- the server
printf 'passwd: files\nhosts: files\nservices: files\nprotocols: files\n' >/etc/nsswitch.conf
echo '_rpc:x:107:65534::/run/rpcbind:/bin/false' >>/etc/passwd # whom rpcbind runs as
modprobe -a nfsd nfs nfsv3 nfsv4 || die "no NFS in this kernel"
mkdir -p /s /m /c /run/rpcbind /var/lib/nfs
mkdir -p /var/lib/nfs/{nfsdcld,sm,rpc_pipefs}
mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs
: >/var/lib/nfs/etab
: >/var/lib/nfs/rmtab
: >/etc/exports
mount -t nfsd nfsd /proc/fs/nfsd || die "no nfsd"
truncate -s 200M /s/disk
if ! mkfs.ext4 -q -F /s/disk || ! mount -o loop /s/disk /m; then die "no ext4"; fi
mkdir $src $dst
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
rpcbind -w
until_true 30 bash -c 'exec 3<>/dev/tcp/127.0.0.1/111' 2>/dev/null || die "rpcbind does not answer"
nfsdcld
exportfs -o rw,sync,no_subtree_check,no_root_squash,insecure,fsid=1 127.0.0.1:$src || die "cannot export"
rpc.nfsd -V 3 -V 4.2 4 || die "no NFS server"
rpc.mountd --no-udp -p 20048 2>/dev/null

# ---- the mirror
cat >/s/fansync.toml <<TOML
[daemon]
state_dir = "/s/state"
status_socket = "$socket"
[[mirror]]
name = "exported"
source = "$src"
$([ "$follow" = default ] || echo "follow_open_files = $follow")
[[mirror.target]]
name = "copy"
url = "$dst"
TOML
chmod 600 /s/fansync.toml
$fansync run --config /s/fansync.toml >/s/mirror.log 2>&1 &
flush() { $fansync flush --socket $socket --timeout 120s >/s/flush.log 2>&1; }
until_true 120 test -S $socket || die "fansync did not start"
flush || die "the first flush: $(cat /s/flush.log)"
$fansync status --json --socket $socket >/s/status.json
said=$(perl -0777 -ne 'print "$1, $2" if /"follow_open_files":\s*(\w+).*?"follow_why":\s*"([^"]*)"/s' /s/status.json)
say "follow_open_files: $said"
[[ $follow != default || $said == "true, NFS exports $src"* ]] || die "auto did not switch on"

# By another program than fansync: content, mode and times of everything.
compare() {
    # A file that grows is sent again and again: rsync's temporary file of a run under way is no part of the copy.
    rsync -ain --checksum --delete --exclude='.*.??????' $src/ $dst/ >/s/differs 2>&1
}
# Nothing differs, or not the times of directories alone. Where a file is sent again, as the server closes it late, its directory has the time
# of that until the run has ended.
settled() { compare && { ! [ -s /s/differs ] || grep -qv '^\.d\.\.t\.\.\.\.\.\. ' /s/differs; }; }
# After a flush on the server, at once.
same() { # STEP
    steps=$((steps + 1))
    flush || die "$1: flush: $(cat /s/flush.log)"
    until_true 60 settled || true
    if [ -s /s/differs ]; then
        bad=$((bad + 1))
        say "$1: DIFFERS: $(tr '\n' ' ' </s/differs)"
        # Each step begins with equal trees, so that it is judged by itself.
        rsync -a --checksum --delete $src/ $dst/
    else
        say "$1: equal"
    fi
}
# Each in a process of its own, so that the client's file is closed when it ends.
by_perl() { perl -e "$1" || die "the client: $1"; }

# ---- a client
client() {
    local options=vers=$version,hard
    if [ "$version" = 3 ]; then options=$options,nolock,mountport=20048; fi
    mount -t nfs -o "$options" 127.0.0.1:$src /c || die "cannot mount"
    if ! mkdir "/c/$version" || ! cd "/c/$version"; then die "the client cannot write"; fi
    for f in shell trunc ftrunc cut times touched mode owner rewrite renamed gone; do echo "something long of $f" >$f; done
    mkdir -p old/deep && echo x >old/deep/f
    echo rest >other
    ln other second
    same "new files"
    : >shell
    same ": > file"
    by_perl 'sysopen F, "trunc", 01001 or die' # O_WRONLY and O_TRUNC
    same "O_TRUNC, nothing written"
    by_perl 'open F, "+<", "ftrunc" or die; truncate F, 5 or die'
    same "ftruncate"
    by_perl 'truncate "cut", 7 or die'
    same "truncate by name"
    touch -d '2001-02-03 04:05:06' times
    same "touch -d"
    touch touched
    same "touch"
    chmod 640 mode
    same "chmod"
    chown 65534:65534 owner
    same "chown"
    by_perl 'open F, ">", "rewrite" or die; print F "y" x 300000; close F or die'
    same "rewrite, flush after the close"
    echo more >>second
    same "append by another name"
    mv renamed old/new-name
    same "rename of a file"
    mv old young
    same "rename of a directory"
    mkdir -p a/b/c
    same "mkdir"
    rm gone
    rmdir a/b/c
    same "unlink, rmdir"
    : >young/deep/f
    by_perl 'open F, ">>", "young/deep/g" or die; print F "z"; close F; unlink "young/deep/f" or die; rename "young/deep/g", "young/deep/f" or die'
    same "made and renamed over"
    # An open file of the client, written after the server was started anew and forgot its names: it is known by its handle alone.
    exec 7>>young/deep/f
    echo one >&7
    rpc.nfsd 0
    sync
    echo 3 >/proc/sys/vm/drop_caches
    rpc.nfsd -V 3 -V 4.2 4
    perl -e 'open F, ">>&=", 7 or die; syswrite F, "two" or die' || die "the client cannot write"
    exec 7>&-
    same "write by handle after a restart of the server"
    searches=$($fansync status --json --socket $socket | perl -0777 -ne 'print $1 if /"searches":\s*(\d+)/')
    say "searches for files that changed without a path: ${searches:-none}"
    cd /
    umount /c || die "cannot unmount"
}
for version; do client; done
version=''
if grep ' ERROR ' /s/mirror.log; then bad=$((bad + 1)); fi
grep ' WARN ' /s/mirror.log
say "$steps comparisons, $bad faults"
[ $bad -eq 0 ]
