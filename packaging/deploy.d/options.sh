# shellcheck shell=bash
# What the command line says, and --help.
# shellcheck disable=SC2034 # the roles read these

usage() {
    cat <<'END'
Puts one role of a mirror on this host, and takes it back.

Usage: scripts/deploy ROLE [OPTIONS]

Roles:
  source   the tree is here: fansync, its unit and configuration
  backup   the copy is here: a module of the rsync daemon
  web      the tree is mounted here over NFS: the failover monitor
  server   besides source or backup, on both: the failover monitor's server part
  hub      a NATS server with JetStream, for the change feed of many copies (docs/fan-out.md)
  follower a copy that follows a feed and pulls

A second call with the same options changes nothing and says so. What an administrator has written or changed is left as it is, and named.
Every change is recorded in /var/lib/fansync-deploy before it is made; --uninstall takes back exactly these.
Firewalls, SELinux, /etc/fstab, /etc/exports and a sersync that runs are left alone and told of.

For each role:
  --dry-run              Tell every change, with each file's text, and make none
  --uninstall            Take the role back. What was changed since is kept and named; so is mirrored data
  --replace              Write files anew that were there before, or were changed since; a copy comes back with --uninstall
  --root DIR             Deploy into the system below DIR (an image, a chroot); nothing is started
  --binary FILE          The program; without it target/release/fansync, else that of an installed package, else it is built
  --no-start             Put everything in place and start nothing
  -h, --help             Print this

source:
  --source DIR           The tree
  --target [NAME=]URL    rsync://USER@HOST[:PORT]/MODULE, [USER@]HOST:/DIR (ssh), or /DIR. Any number
  --exclude PATTERN      What to leave out, in rsync's syntax. Any number
  --no-delete            Never delete on the targets
  --roles                For failover: the marks of docs/failover.md decide who may push, and open files are followed
  --confxml FILE         In place of all these: a configuration of sersync's, with the flags of its call in
  --sersync "FLAGS"      as "-r -n 10"
  --password-file FILE   Whose first line is the rsync daemon's password; without it one is made up
  --feed URL             A feed, besides or in place of targets: nats://HUB[:PORT]/NAME, or tls://
  --nats-password-file FILE  Whose first line is the password that the hub made for the user `source`
  --ca-file FILE         The certificates that sign the hub's, where that is not a public authority
  --metrics ADDR:PORT    Where Prometheus and a browser find it (nowhere)
  --instance NAME        One of several: fansync@NAME.service, /etc/fansync/NAME.toml

backup:
  --module NAME=DIR      A module and where it lies. Any number
  --user NAME            Whom the source logs in as (fansync)
  --password-file FILE   Whose first line is the password; without it one is made up
  --hosts-allow WHO      Address, network or name of a source, as in rsyncd.conf. Any number, at least one
  --run-as USER          Whom files belong to (root). Another one than root gets "fake super": owners and links are kept in attributes
  --no-fake-super        Not so: owners are not kept, and links are links, as a web server needs that is to serve the copy
  --uid NUMBER           The number of that user, if he has to be made
  --port PORT            Where there is no rsyncd.conf yet (873)

web:
  --mount DIR            The mount point
  --primary HOST:DIR     The server that has the tree, and what it exports
  --backup HOST:DIR      The one that has the copy
  --key-file FILE        The key of docs/failover.md, the same on all hosts; without it one is made up
  --nfs-version VERSION  (4.2)
  --failback auto|manual (auto)

server:
  --tree DIR             The exported tree
  --peer HOST            The other server
  --clients NETWORK      Who may mount it, as in /etc/exports. Any number, at least one
  --mirror NAME          The [[mirror]] whose target is the peer (that of the tree)
  --key-file FILE        As above

hub:
  --feed NAME            The name of the feed
  --follower NAME        Who may follow it. Any number, at least one; a later call with more of them adds these
  --relay NAME=URL       A follower that others pull from, and where: the same rsync://HOST/MODULE as its --serve. Any number
  --listen ADDR:PORT     (0.0.0.0:4222)
  --cert FILE, --key FILE  The server's certificate and its key, in PEM, for TLS; they are copied, and renewed with --replace

follower:
  --feed URL             nats://HUB[:PORT]/NAME, or tls://
  --upstream URL         What is pulled from: rsync://USER@HOST/MODULE, or [USER@]HOST:/DIR (ssh). Any number: relays first, the source last
  --serve URL            Of a relay: where others pull from it. Its rsync daemon is not set up by this
  --directory DIR        The copy. What it has and the source has not is deleted
  --name NAME            The name that it reports under, and logs in by (the host's)
  --nats-password-file FILE  Whose first line is the password that the hub made for it
  --ca-file FILE         The certificates that sign the hub's, where that is not a public authority
  --password-file FILE   Whose first line is the rsync daemon's password
  --max-delete NUMBER    Entries that one run may delete; more wait for an administrator
  --exclude, --metrics, --instance  As for a source

Examples:
  sudo scripts/deploy backup --module data=/data --user rsync_backup --hosts-allow 172.16.1.31 --password-file /root/rsync.pass
  sudo scripts/deploy source --source /data --target rsync://rsync_backup@172.16.1.41/data --password-file /root/rsync.pass
  sudo scripts/deploy source --confxml /usr/local/sersync/confxml.xml --sersync "-r -n 10"
  sudo scripts/deploy web --mount /var/www/html/upload --primary 172.16.1.31:/data --backup 172.16.1.41:/data
  sudo scripts/deploy hub --feed web --follower web1 --follower web2
  sudo scripts/deploy source --source /data --feed nats://172.16.1.30/web --nats-password-file /root/source.pass
  sudo scripts/deploy follower --feed nats://172.16.1.30/web --upstream rsync://172.16.1.31/data --directory /data --name web1 --nats-password-file /root/web1.pass
  sudo scripts/deploy source --uninstall --dry-run

Exit codes: 0 done, 1 not done, 64 the command line is wrong, 69 a program is missing, 77 not root, 78 the configuration is wrong.
END
}

wrong() { stop_because 64 "$1" "${2:-scripts/deploy --help lists all options}"; }

ROLE='' ROOT='' DRY=0 UNINSTALL=0 REPLACE=0 START=1 BINARY=''
SOURCE='' DELETE=1 ROLES=0 CONFXML='' SERSYNC='' PASSWORD_FILE='' METRICS='' INSTANCE=''
AUTH_USER=fansync FAKE_SUPER=1 RUN_AS=root RUN_UID='' PORT=873
MOUNT='' PRIMARY='' BACKUP='' KEY_FILE='' NFS_VERSION=4.2 FAILBACK=auto
TREE='' PEER='' MIRROR=''
FEED='' NATS_USER='' NATS_PASSWORD_FILE='' CA_FILE='' SERVE='' DIRECTORY='' FOLLOWER_NAME='' MAX_DELETE=''
LISTEN=0.0.0.0:4222 CERT='' KEY=''
FOLLOWERS=() RELAYS=() UPSTREAMS=()
TARGETS=() EXCLUDES=() MODULES=() HOSTS=() CLIENTS=()

# Which options take a value in which role.
declare -A TAKES=(
    [source]=" --source --target --exclude --confxml --sersync --password-file --metrics --instance --feed --nats-password-file --ca-file "
    [backup]=" --module --user --password-file --hosts-allow --run-as --uid --port "
    [web]=" --mount --primary --backup --key-file --nfs-version --failback "
    [server]=" --tree --peer --clients --mirror --key-file "
    [hub]=" --feed --follower --relay --listen --cert --key "
    [follower]=" --feed --upstream --serve --directory --name --nats-password-file --ca-file --password-file --max-delete --exclude --metrics --instance "
)

# Which take none.
declare -A FLAGS=([source]="--no-delete --roles" [backup]="--no-fake-super")

read_options() {
    if [[ $# -eq 0 ]]; then
        usage >&2
        exit 64
    fi
    case $1 in
    source | backup | web | server | hub | follower) ROLE=$1 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) wrong "'$1' is no role" "the roles are source, backup, web, server, hub and follower" ;;
    esac
    shift
    local option
    while [[ $# -gt 0 ]]; do
        option=$1
        shift
        case $option in
        -h | --help)
            usage
            exit 0
            ;;
        --dry-run) DRY=1 ;;
        --uninstall) UNINSTALL=1 ;;
        --replace) REPLACE=1 ;;
        --no-start) START=0 ;;
        --no-delete | --roles | --no-fake-super)
            [[ " ${FLAGS[$ROLE]:-} " == *" $option "* ]] || wrong "the role $ROLE has no option $option"
            case $option in
            --no-delete) DELETE=0 ;;
            --roles) ROLES=1 ;;
            --no-fake-super) FAKE_SUPER=0 ;;
            esac
            ;;
        *)
            [[ " --root --binary ${TAKES[$ROLE]}" == *" $option "* ]] || wrong "the role $ROLE has no option $option"
            [[ $# -gt 0 ]] || wrong "$option lacks its value"
            [[ -n $1 && $1 != *[[:cntrl:]]* ]] || wrong "the value of $option is empty or has a control character"
            take_value "$option" "$1"
            shift
            ;;
        esac
    done
    ID=$ROLE${INSTANCE:+@$INSTANCE}
}

take_value() {
    case $1 in
    --root | --source | --mount | --tree | --directory | --ca-file) [[ $2 == /* ]] || wrong "$1 $2 is not an absolute path" ;;
    --uid | --port | --max-delete) [[ $2 =~ ^[0-9]{1,9}$ ]] || wrong "$1 $2 is not a number" ;;
    --instance) [[ $2 =~ ^[A-Za-z0-9_][A-Za-z0-9_-]*$ && $2 != fansync && $2 != failover ]] ||
        wrong "--instance $2 is not a name of letters, digits, - and _, or one that is taken" ;;
    --user | --run-as) [[ $2 =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || wrong "$1 $2 is not a name of letters, digits, . - and _" ;;
    --listen) [[ $2 =~ ^.+:[0-9]{1,5}$ && $2 != *[\"\\]* ]] || wrong "--listen $2 is not of the form ADDRESS:PORT" ;;
    --feed) [[ $ROLE == hub || $2 =~ ^(nats|tls)://[^/]+/[A-Za-z0-9_-]+$ ]] || wrong "--feed $2 is not of the form nats://HUB/NAME or tls://HUB/NAME" ;;
    --failback) [[ $2 == auto || $2 == manual ]] || wrong "--failback $2 is neither auto nor manual" ;;
    esac
    case $1 in
    --root) if [[ $2 != / ]]; then ROOT=${2%/}; fi ;;
    --binary) BINARY=$2 ;;
    --source) SOURCE=$2 ;;
    --target) TARGETS+=("$2") ;;
    --exclude) EXCLUDES+=("$2") ;;
    --confxml) CONFXML=$2 ;;
    --sersync) SERSYNC=$2 ;;
    --password-file) PASSWORD_FILE=$2 ;;
    --metrics) METRICS=$2 ;;
    --instance) INSTANCE=$2 ;;
    --module) MODULES+=("$2") ;;
    --user) AUTH_USER=$2 ;;
    --hosts-allow) HOSTS+=("$2") ;;
    --run-as) RUN_AS=$2 ;;
    --uid) RUN_UID=$2 ;;
    --port) PORT=$2 ;;
    --mount) MOUNT=$2 ;;
    --primary) PRIMARY=$2 ;;
    --backup) BACKUP=$2 ;;
    --key-file) KEY_FILE=$2 ;;
    --nfs-version) NFS_VERSION=$2 ;;
    --failback) FAILBACK=$2 ;;
    --tree) TREE=$2 ;;
    --peer) PEER=$2 ;;
    --clients) CLIENTS+=("$2") ;;
    --mirror) MIRROR=$2 ;;
    --feed) FEED=$2 ;;
    --follower) FOLLOWERS+=("$2") ;;
    --listen) LISTEN=$2 ;;
    --cert) CERT=$2 ;;
    --key) KEY=$2 ;;
    --relay) RELAYS+=("$2") ;;
    --upstream) UPSTREAMS+=("$2") ;;
    --serve) SERVE=$2 ;;
    --directory) DIRECTORY=$2 ;;
    --name) FOLLOWER_NAME=$2 ;;
    --nats-password-file) NATS_PASSWORD_FILE=$2 ;;
    --ca-file) CA_FILE=$2 ;;
    --max-delete) MAX_DELETE=$2 ;;
    esac
}
