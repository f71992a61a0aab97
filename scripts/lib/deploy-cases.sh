# shellcheck shell=bash
# The cases of scripts/check/deploy; each is a function that runs as root in an image of the host, in the root of the repository.
# shellcheck disable=SC2034

CASES=(
    source_twice_and_back
    backup_beside_a_configuration_of_old
    backup_with_users_and_data
    several_roles_share
    what_an_administrator_wrote_stays
    a_program_that_was_there
    another_source_is_no_change_of_options
    passwords_stay
    configuration_of_sersyncs
    password_of_sersyncs
    hub_twice_and_back
    a_feed_that_was_deployed_works
    services_where_systemd_runs
    another_root
    refused_before_anything_is_changed
    interrupted_anywhere_then_completed
    interrupted_anywhere_then_taken_back
)

SOURCE_ROLE=(source --source /srv/data --target rsync://mirror@127.0.0.1/data --exclude '*.swp' --binary /run/image/fansync)
BACKUP_ROLE=(backup --module data=/srv/copy --user mirror --hosts-allow 127.0.0.1)
WEB_ROLE=(web --mount /srv/www --primary 10.0.0.1:/data --backup 10.0.0.2:/data --binary /run/image/fansync)

broken() {
    printf 'BROKEN: %s\n' "$*"
    exit 1
}

# deploy CODE WORDS…: calls it, and wants this exit code; what it said is in $said and the log.
deploy() {
    local want=$1 code=0
    shift
    printf '== scripts/deploy %s\n' "$*"
    said=$(scripts/deploy "$@" 2>&1) || code=$?
    printf '%s\n' "$said"
    [[ $code -eq $want ]] || broken "exit code $code, not $want"
}

said_that() { [[ $said == *"$1"* ]] || broken "it does not say '$1'"; }
said_nothing_of() { [[ $said != *"$1"* ]] || broken "it says '$1'"; }

# Everything that a case put into the image itself is part of what has to be found again.
as_it_is() { (cd /run/image/upper && find . -printf '%p %y %m %U:%G %T@ ' \( -type f -exec sha256sum {} \; -o -printf '%l\n' \)); }

# untouched [PATH…]: nothing is in the upper layer that differs from the host, besides what is below these paths.
untouched() {
    local left
    compgen -G '/tmp/fansync-deploy.*' >/dev/null && broken "a scratch directory is left"
    left=$(traces "$@")
    [[ -z $left ]] || broken "$left"
}

# there PATH MODE OWNER
there() { [[ $(stat -c '%a %U:%G' "$1") == "$2 $3" ]] || broken "$1 is $(stat -c '%a %U:%G' "$1"), not $2 $3"; }

# twice WORDS…: a dry run, a run, a run that finds nothing to do.
twice() {
    local before after
    before=$(as_it_is)
    deploy 0 "$@" --dry-run
    said_that "none was"
    [[ $(as_it_is) == "$before" ]] || broken "the dry run changed something"
    deploy 0 "$@"
    before=$(as_it_is)
    [[ $before != "" ]] || broken "nothing was done"
    deploy 0 "$@"
    said_that "nothing to change"
    after=$(as_it_is)
    [[ $after == "$before" ]] || broken "the second run changed: $(diff <(printf '%s\n' "$before") <(printf '%s\n' "$after"))"
    deploy 0 "$1" --uninstall --dry-run
    [[ $(as_it_is) == "$before" ]] || broken "the dry run of --uninstall changed something"
}

source_twice_and_back() {
    mkdir -p /srv/data
    twice "${SOURCE_ROLE[@]}"
    there /etc/fansync/fansync.toml 644 root:root
    there /etc/fansync/fansync.pass 600 root:root
    there /var/lib/fansync 700 root:root
    there /usr/local/bin/fansync 755 root:root
    cmp /run/image/fansync /usr/local/bin/fansync
    /usr/local/bin/fansync check --config /etc/fansync/fansync.toml --effective | grep -q '"\*.swp"' || broken "the pattern is not in the configuration"
    grep -q '^ExecStart=/usr/local/bin/fansync run --config /etc/fansync/fansync.toml$' /etc/systemd/system/fansync.service || broken "the unit starts something else"
    # What the daemon writes there goes along.
    [[ -z $(ls -A /var/lib/fansync) ]] || broken "the image is not bare"
    mkdir /var/lib/fansync/data && touch /var/lib/fansync/data/state
    deploy 0 source --uninstall
    untouched /srv/data
    deploy 0 source --uninstall
    said_that "nothing to take back"
    # Cut off before there was a record.
    mkdir -m 700 /var/lib/fansync-deploy && touch /var/lib/fansync-deploy/lock
    deploy 0 source --uninstall
    untouched /srv/data
}

# The rsyncd.conf of old sites: its globals would break links, delete after read errors, and are not inherited.
backup_beside_a_configuration_of_old() {
    rm -f /etc/rsyncd.conf
    printf 'uid = nobody\nfake super = yes\nuse chroot = no\nignore errors\nsocket options = SO_KEEPALIVE\n[other]\npath = /srv/other\n' >/etc/rsyncd.conf
    chmod 640 /etc/rsyncd.conf
    cp -a /etc/rsyncd.conf /tmp/before
    deploy 0 "${BACKUP_ROLE[@]}"
    said_that "Add TCP_NODELAY to it"
    [[ ! -e /etc/rsyncd.d/fansync.inc ]] || broken "socket options are set twice"
    # One that has none gets it.
    sed -i '/socket options/d' /etc/rsyncd.conf
    deploy 0 backup --uninstall
    said_that "without the lines of fansync"
    cmp /etc/rsyncd.conf <(grep -v 'socket options' /tmp/before) || broken "more than our lines were taken out"
    cp -a /etc/rsyncd.conf /tmp/before
    twice "${BACKUP_ROLE[@]}"
    there /etc/rsyncd.conf 640 root:root
    grep -q TCP_NODELAY /etc/rsyncd.d/fansync.inc || broken "no socket options"
    deploy 0 backup --uninstall
    cmp /tmp/before /etc/rsyncd.conf || broken "rsyncd.conf is not as it was"
    there /etc/rsyncd.conf 640 root:root
    untouched /etc/rsyncd.conf
}

# serve: the rsync daemon as it was deployed, on a port of its own that the globals do not set.
serve() {
    local try
    for try in {1..20}; do
        port=$((20000 + RANDOM % 12000))
        rsync --daemon --no-detach --port="$port" --log-file=/tmp/rsyncd.log &
        server=$!
        for _ in {1..100}; do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
            kill -0 "$server" 2>/dev/null || break
            sleep 0.02
        done
        kill "$server" 2>/dev/null || true
    done
    broken "no rsync daemon would start: $(cat /tmp/rsyncd.log), after $try tries"
}

backup_with_users_and_data() {
    local role=("${BACKUP_ROLE[@]}" --run-as fsmirror)
    twice "${role[@]}"
    there /srv/copy 755 fsmirror:fsmirror
    there /etc/fansync/rsyncd.secrets 600 root:root
    (umask 077 && sed 's/^[^:]*://' /etc/fansync/rsyncd.secrets >/tmp/pass)
    mkdir /tmp/tree
    echo one >/tmp/tree/file
    chown 12345:12345 /tmp/tree/file
    ln -s ../up /tmp/tree/link
    serve
    rsync -a --numeric-ids --password-file=/tmp/pass /tmp/tree/ "rsync://mirror@127.0.0.1:$port/data/." || broken "nothing can be sent"
    local differ
    differ=$(rsync -anci --numeric-ids --delete --password-file=/tmp/pass /tmp/tree/ "rsync://mirror@127.0.0.1:$port/data/.") || broken "nothing can be compared"
    [[ -z $differ ]] || broken "the copy differs, with its owners: $differ"
    kill "$server"
    [[ -f /srv/copy/link && ! -L /srv/copy/link ]] || broken "fake super is not on"
    there /srv/copy/file 644 fsmirror:fsmirror
    ! grep -q 'incoming chmod' /etc/rsyncd.d/fansync.conf || broken "modes are changed although owners are kept"
    deploy 0 "${role[@]}" --no-fake-super
    grep -q '^    incoming chmod = Fug-s$' /etc/rsyncd.d/fansync.conf || broken "set-ID programs arrive as the user's own"
    rm -r /srv/copy/*
    serve
    rsync -a --numeric-ids --password-file=/tmp/pass /tmp/tree/ "rsync://mirror@127.0.0.1:$port/data/." || broken "nothing can be sent without fake super"
    kill "$server"
    [[ $(readlink /srv/copy/link) == ../up ]] || broken "links are stored as $(stat -c %F /srv/copy/link) to $(readlink /srv/copy/link)"
    deploy 0 backup --uninstall
    said_that "/srv/copy is kept, for something is in it"
    [[ -e /srv/copy/file ]] || broken "mirrored data was deleted"
    [[ -z $(getent passwd fsmirror) && -z $(getent group fsmirror) ]] || broken "the user is left"
    # The tools that keep accounts leave their lock, and the version before in files of their own.
    untouched /srv/copy /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/.pwd.lock
}

several_roles_share() {
    mkdir -p /srv/data
    deploy 0 "${SOURCE_ROLE[@]}" --instance one --roles
    /usr/local/bin/fansync check --config /etc/fansync/one.toml --effective | grep -qx 'follow_open_files = true' || broken "a server's mirror does not follow open files"
    deploy 0 "${SOURCE_ROLE[@]}"
    twice "${WEB_ROLE[@]}"
    /usr/local/bin/fansync check --config /etc/fansync/failover.toml || broken "the monitor's configuration is wrong"
    there /etc/fansync/failover.key 600 root:root
    deploy 1 server --tree /srv/data --peer 10.0.0.2 --clients 10.0.0.0/24 --binary /run/image/fansync
    said_that "is the configuration of another role"
    grep -q '\[failover.primary\]' /etc/fansync/failover.toml || broken "the other role's file was replaced"
    deploy 0 server --uninstall
    there /etc/fansync/failover.key 600 root:root
    deploy 0 source --uninstall
    said_that "/usr/local/bin/fansync is used by another role"
    [[ -d /var/lib/fansync/one ]] || broken "another instance's state is gone"
    /usr/local/bin/fansync check --config /etc/fansync/one.toml --effective | grep -q '/var/lib/fansync/one' || broken "the instance has no state of its own"
    deploy 0 web --uninstall
    twice server --tree /srv/data --peer 10.0.0.2 --clients 10.0.0.0/24 --binary /run/image/fansync
    deploy 0 server --uninstall
    deploy 0 source --instance one --uninstall
    untouched /srv/data
}

what_an_administrator_wrote_stays() {
    mkdir -p /srv/data
    deploy 0 "${SOURCE_ROLE[@]}"
    deploy 0 "${BACKUP_ROLE[@]}"
    echo '# mine' >>/etc/fansync/fansync.toml
    echo mine >/etc/fansync/mine
    printf '[mine]\npath = /srv/mine\n' >>/etc/rsyncd.conf
    deploy 0 "${SOURCE_ROLE[@]}"
    said_that "/etc/fansync/fansync.toml was changed since it was put there and is left as it is"
    deploy 0 source --binary /run/image/fansync
    deploy 0 source --uninstall
    said_that "/etc/fansync/fansync.toml was changed since it was put there and is kept"
    grep -q '# mine' /etc/fansync/fansync.toml || broken "the administrator's file is gone"
    deploy 0 backup --uninstall
    said_that "/etc/fansync is kept, for something is in it"
    cmp /etc/rsyncd.conf <(printf '[mine]\npath = /srv/mine\n') || broken "rsyncd.conf is not the administrator's part alone"
    untouched /srv/data /etc/fansync /etc/rsyncd.conf
    cmp <(ls /etc/fansync) <(printf 'fansync.toml\nmine\n') || broken "left: $(ls /etc/fansync)"
}

a_program_that_was_there() {
    mkdir -p /srv/data
    printf '#!/bin/sh\n' >/usr/local/bin/fansync
    chmod 750 /usr/local/bin/fansync
    cp -a /usr/local/bin/fansync /tmp/before
    deploy 1 "${SOURCE_ROLE[@]}"
    said_that "was there before"
    said_that "--replace"
    deploy 0 source --uninstall
    untouched /srv/data /usr/local/bin/fansync
    deploy 0 "${SOURCE_ROLE[@]}" --replace
    cmp /run/image/fansync /usr/local/bin/fansync || broken "it was not replaced"
    deploy 0 "${SOURCE_ROLE[@]}"
    said_that "nothing to change"
    deploy 0 source --uninstall
    cmp /tmp/before /usr/local/bin/fansync || broken "it is not back"
    there /usr/local/bin/fansync 750 root:root
    untouched /srv/data /usr/local/bin/fansync
}

another_source_is_no_change_of_options() {
    local other=(source --source /srv/more --target rsync://mirror@127.0.0.1/more --binary /run/image/fansync)
    mkdir -p /srv/data /srv/more
    deploy 0 "${SOURCE_ROLE[@]}"
    deploy 0 "${SOURCE_ROLE[@]}" --exclude '/cache/'
    cp -a /etc/fansync/fansync.toml /tmp/first
    deploy 1 "${other[@]}"
    said_that "mirrors /srv/data, which this call does not name"
    said_that "--instance NAME"
    cmp /tmp/first /etc/fansync/fansync.toml || broken "the first mirror is gone"
    deploy 1 "${other[@]}" --dry-run
    deploy 0 "${other[@]}" --instance more
    cmp /tmp/first /etc/fansync/fansync.toml || broken "the first mirror is gone"
    deploy 0 "${other[@]}" --replace
    grep -q '^source = "/srv/more"$' /etc/fansync/fansync.toml || broken "it was not replaced"
    deploy 0 source --instance more --uninstall
    deploy 0 source --uninstall
    untouched /srv/data /srv/more
}

passwords_stay() {
    mkdir -p /srv/data
    (umask 077 && echo first >/tmp/first && echo second >/tmp/second)
    deploy 0 "${SOURCE_ROLE[@]}" --password-file /tmp/first --dry-run
    said_nothing_of first$'\n'
    deploy 0 "${SOURCE_ROLE[@]}" --password-file /tmp/first
    cmp /tmp/first /etc/fansync/fansync.pass
    deploy 0 "${SOURCE_ROLE[@]}" --password-file /tmp/second
    said_that "holds another secret and is left as it is"
    cmp /tmp/first /etc/fansync/fansync.pass || broken "the password was replaced without being told to"
    deploy 0 "${SOURCE_ROLE[@]}" --password-file /tmp/second --replace
    cmp /tmp/second /etc/fansync/fansync.pass || broken "the password was not replaced"
    there /etc/fansync/fansync.pass 600 root:root
    deploy 0 "${BACKUP_ROLE[@]}" --password-file /tmp/first
    [[ $(cat /etc/fansync/rsyncd.secrets) == mirror:first ]] || broken "the secrets are $(cat /etc/fansync/rsyncd.secrets)"
    deploy 1 "${BACKUP_ROLE[@]}" --password-file /tmp/none
    deploy 0 backup --uninstall
    deploy 0 source --uninstall
    untouched /srv/data
}

configuration_of_sersyncs() {
    mkdir -p /srv/data
    (umask 077 && echo secret >/etc/rsync.passwd)
    cat >/tmp/confxml.xml <<'END'
<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
    <inotify><delete start="true"/></inotify>
    <sersync>
        <localpath watch="/srv/data"><remote ip="127.0.0.1" name="data"/></localpath>
        <rsync>
            <commonParams params="-az"/>
            <auth start="true" users="rsync_backup" passwordfile="/etc/rsync.passwd"/>
        </rsync>
    </sersync>
</head>
END
    cp /bin/sleep /tmp/sersync2
    /tmp/sersync2 600 &
    local old=$!
    twice source --confxml /tmp/confxml.xml --sersync "-r -n 3" --binary /run/image/fansync
    deploy 0 source --confxml /tmp/confxml.xml --sersync "-r -n 3" --binary /run/image/fansync
    said_that "sersync still runs as process $old"
    kill -0 "$old" || broken "sersync was ended"
    kill "$old"
    grep -q '^jobs = 3$' /etc/fansync/fansync.toml || broken "-n is not carried over"
    deploy 0 source --uninstall
    cmp /etc/rsync.passwd <(echo secret) || broken "sersync's password file is gone"
    untouched /srv/data /etc/rsync.passwd
}

# What was in a private file stays in one.
password_of_sersyncs() {
    mkdir -p /srv/data
    cat >/tmp/confxml.xml <<'END'
<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
    <sersync>
        <localpath watch="/srv/data"><remote ip="127.0.0.1" name="data"/></localpath>
        <rsync><commonParams params="-az"/></rsync>
        <plugin start="true" name="refreshCDN"/>
    </sersync>
    <plugin name="refreshCDN">
        <localpath watch="/srv/data">
            <cdninfo domainname="ccms.example" port="80" username="u" passwd="s3cret"/>
            <sendurl base="http://pic.example"/>
        </localpath>
    </plugin>
</head>
END
    chmod 600 /tmp/confxml.xml
    twice source --confxml /tmp/confxml.xml --binary /run/image/fansync
    grep -q '^password = "s3cret"$' /etc/fansync/fansync.toml || broken "the password is not carried over"
    there /etc/fansync/fansync.toml 600 root:root
    said_nothing_of s3cret
    deploy 0 source --uninstall
    untouched /srv/data
}

# A systemctl that remembers: for the order of calls, and for what was enabled or running before.
pretend_systemd() {
    mkdir -p /run/systemd/system /tmp/bin /tmp/units
    cat >/tmp/bin/systemctl <<'END'
#!/bin/bash
words=()
for word in "$@"; do [[ $word == --quiet ]] || words+=("$word"); done
set -- "${words[@]}"
case $1 in
is-enabled) [[ -e /tmp/units/$2.enabled ]]; exit ;;
is-active) [[ -e /tmp/units/$2.active ]]; exit ;;
enable) touch "/tmp/units/$2.enabled" ;;
disable) rm "/tmp/units/$2.enabled" ;;
start) ls /etc/systemd/system/fansync*.service /usr/lib/systemd/system/"$2" >/dev/null 2>&1; touch "/tmp/units/$2.active" ;;
stop) rm "/tmp/units/$2.active" ;;
esac
echo "$*" >>/tmp/units/log
END
    chmod 755 /tmp/bin/systemctl
    PATH=/tmp/bin:$PATH
    : >/tmp/units/log
}

calls_were() {
    local log
    log=$(tr '\n' ';' </tmp/units/log)
    [[ $log == "$1" ]] || broken "the calls were: $log"
    : >/tmp/units/log
}

HUB_ROLE=(hub --feed web --follower web1 --follower web2)

hub_twice_and_back() {
    twice "${HUB_ROLE[@]}"
    there /etc/fansync/hub.conf 640 root:fansync-hub
    there /etc/fansync/hub 700 root:root
    there /etc/fansync/hub/web2.pass 600 root:root
    there /var/lib/fansync-hub 700 fansync-hub:fansync-hub
    nats-server -t -c /etc/fansync/hub.conf || broken "nats-server refuses the configuration"
    # The rights of docs/fan-out.md, in one order.
    local wanted got
    # shellcheck disable=SC2016 # the name of a subject
    rights() { grep -oE '"(fansync|\$JS|_INBOX)[^"]*"' | sort -u; }
    wanted=$(sed -n '/^accounts {/,/^```/p' docs/fan-out.md | rights)
    got=$(grep -vE 'web2' /etc/fansync/hub.conf | rights)
    [[ -n $wanted && $got == "$wanted" ]] || broken "other rights than those that are documented: $(diff <(printf '%s' "$wanted") <(printf '%s' "$got"))"
    # One more follower; the others keep their passwords.
    cp /etc/fansync/hub/web1.pass /tmp/before
    deploy 0 "${HUB_ROLE[@]}" --follower web3
    cmp /tmp/before /etc/fansync/hub/web1.pass || broken "another password"
    grep -qF "$(cat /etc/fansync/hub/web3.pass)" /etc/fansync/hub.conf || broken "the new follower cannot log in"
    deploy 0 "${HUB_ROLE[@]}" --follower web3 --replace --dry-run
    said_nothing_of "$(cat /etc/fansync/hub/web1.pass)"
    deploy 64 hub --feed web
    deploy 64 hub --feed 'a b' --follower web1
    deploy 64 "${HUB_ROLE[@]}" --follower source
    # With relays everyone reads their reports, and each reports as itself.
    deploy 0 "${HUB_ROLE[@]}" --relay relay-1=rsync://m@Relay_1.example.com:8730/web/a
    grep -A1 'user: relay-1,' /etc/fansync/hub.conf | grep -qF '"fansync.relay.web.relay=5F1_example_com=3A8730=2Fweb=2Fa"' || broken "a relay may not report: $(cat /etc/fansync/hub.conf)"
    [[ $(grep -cF '"fansync.relay.web.*"' /etc/fansync/hub.conf) -eq 3 ]] || broken "not every follower reads the reports of relays"
    deploy 64 "${HUB_ROLE[@]}" --relay relay-1
    deploy 0 "${HUB_ROLE[@]}"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /tmp/k.pem -out /tmp/c.pem -subj /CN=hub -days 2
    deploy 0 "${HUB_ROLE[@]}" --cert /tmp/c.pem --key /tmp/k.pem
    there /etc/fansync/hub.key 640 root:fansync-hub
    grep -qx 'tls { cert_file: "/etc/fansync/hub.pem", key_file: "/etc/fansync/hub.key" }' /etc/fansync/hub.conf || broken "no TLS"
    deploy 64 "${HUB_ROLE[@]}" --cert /tmp/c.pem
    deploy 0 hub --uninstall
    untouched /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/.pwd.lock
}

# running WORDS…: in the background; its log is /tmp/log-N.
running=()
run() {
    "$@" >"/tmp/log-${#running[@]}" 2>&1 &
    running+=($!)
}

a_feed_that_was_deployed_works() {
    local port pid rsyncd
    port=$((20000 + RANDOM % 12000))
    rsyncd=$((port + 1))
    mkdir -p /srv/data
    echo one >/srv/data/file
    deploy 0 "${HUB_ROLE[@]}" --listen "127.0.0.1:$port"
    deploy 0 source --source /srv/data --feed "nats://127.0.0.1:$port/web" --nats-password-file /etc/fansync/hub/source.pass --instance tree --binary /run/image/fansync
    twice follower --feed "nats://127.0.0.1:$port/web" --upstream "rsync://127.0.0.1:$rsyncd/data" --directory /srv/copy --name web1 \
        --nats-password-file /etc/fansync/hub/web1.pass --max-delete 100 --instance copy --binary /run/image/fansync
    there /etc/fansync/copy.nats 600 root:root
    printf '[data]\npath = /srv/data\nread only = yes\nuid = root\ngid = root\n' >/tmp/rsyncd.conf
    run rsync --daemon --no-detach --config=/tmp/rsyncd.conf --port="$rsyncd" --address=127.0.0.1
    run nats-server -c /etc/fansync/hub.conf
    mkdir -p /run/fansync
    run /usr/local/bin/fansync run --config /etc/fansync/tree.toml
    run /usr/local/bin/fansync run --config /etc/fansync/copy.toml
    local end=$((SECONDS + 60))
    until /usr/local/bin/fansync flush --socket /run/fansync/tree.sock --followers web1 --timeout 5s || [[ $SECONDS -gt $end ]]; do sleep 0.2; done
    echo two >/srv/data/file
    /usr/local/bin/fansync flush --socket /run/fansync/tree.sock --followers all --timeout 30s || broken "the follower does not hold it: $(tail -n 5 /tmp/log-*)"
    cmp /srv/data/file /srv/copy/file || broken "the copy is another"
    for pid in "${running[@]}"; do
        kill "$pid" || true
        wait "$pid" || true
    done
    deploy 0 follower --instance copy --uninstall
    said_that "/srv/copy is kept, for something is in it"
    deploy 0 source --instance tree --uninstall
    deploy 0 hub --uninstall
    [[ ! -e /var/lib/fansync-hub ]] || broken "the store is left"
    untouched /srv/data /srv/copy /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/.pwd.lock
}

services_where_systemd_runs() {
    mkdir -p /srv/data
    pretend_systemd
    deploy 0 "${SOURCE_ROLE[@]}" --no-start
    calls_were ""
    deploy 0 "${SOURCE_ROLE[@]}" --dry-run
    said_that "systemctl start fansync.service"
    calls_were ""
    deploy 0 "${SOURCE_ROLE[@]}"
    calls_were "enable fansync.service;start fansync.service;"
    deploy 0 "${SOURCE_ROLE[@]}"
    calls_were ""
    deploy 0 "${SOURCE_ROLE[@]}" --exclude /cache/
    calls_were "reload-or-restart fansync.service;"
    deploy 0 source --uninstall
    calls_were "stop fansync.service;disable fansync.service;daemon-reload;"
    # What ran and was enabled before goes on.
    mkdir -p /etc/systemd/system
    cp packaging/deploy.d/fansync-rsyncd.service /etc/systemd/system/rsync.service
    touch /tmp/units/rsync.service.enabled /tmp/units/rsync.service.active
    deploy 0 "${BACKUP_ROLE[@]}"
    calls_were "daemon-reload;restart rsync.service;"
    deploy 0 backup --uninstall
    calls_were "daemon-reload;"
    untouched /srv/data /etc/systemd/system/rsync.service
}

# A root of another system: its accounts, its files, and no systemctl.
contents_of() {
    (cd "$1" && find . ! -name .pwd.lock ! -path './etc/*-' -printf '%p %y %m %U:%G\n' | sort && find . -type f ! -name .pwd.lock ! -path './etc/*-' -exec sha256sum {} + | sort)
}

another_root() {
    local root=/srv/image before after
    mkdir -p $root/etc $root/var/lib $root/usr/bin $root/tmp
    cp /etc/{passwd,group,shadow,gshadow,login.defs} $root/etc
    cp /usr/bin/rsync $root/usr/bin/
    pretend_systemd
    before=$(contents_of $root)
    deploy 0 "${BACKUP_ROLE[@]}" --run-as fsmirror --root $root
    deploy 0 "${BACKUP_ROLE[@]}" --run-as fsmirror --root $root
    said_that "nothing to change"
    deploy 0 "${SOURCE_ROLE[@]}" --root $root
    deploy 0 "${SOURCE_ROLE[@]}" --root $root
    said_that "nothing to change"
    grep -q fsmirror $root/etc/passwd || broken "the user is not in that root"
    [[ -e $root/etc/systemd/system/fansync-rsyncd.service ]] || broken "a root without a unit of rsync's got none"
    untouched /srv/image
    deploy 0 backup --root $root --uninstall
    deploy 0 source --root $root --uninstall
    calls_were ""
    after=$(contents_of $root)
    [[ $after == "$before" ]] || broken "left: $(diff <(printf '%s\n' "$before") <(printf '%s\n' "$after"))"
    untouched /srv/image
}

refused_before_anything_is_changed() {
    mkdir -p /srv/data
    local code=0
    chmod 755 /run/image/fansync
    setpriv --reuid 65534 --clear-groups scripts/deploy "${SOURCE_ROLE[@]}" 2>/tmp/said || code=$?
    [[ $code -eq 77 ]] || broken "without root: exit code $code: $(cat /tmp/said)"
    deploy 64
    deploy 64 primary
    deploy 64 source --module a=/b
    deploy 64 source --source relative --target /x
    deploy 64 source --source /srv/data
    deploy 64 backup --module data=/srv/copy
    deploy 64 backup --module data --hosts-allow 127.0.0.1
    deploy 64 web --mount /srv/www
    deploy 64 "${SOURCE_ROLE[@]}" --root /srv/data
    deploy 78 source --source /srv/data --target /srv/data/inside --binary /run/image/fansync
    said_that "nothing was changed"
    deploy 69 source --source /srv/data --target /srv/copy --binary /tmp/none
    printf '[data]\npath = /x\n' >/etc/rsyncd.conf
    deploy 1 "${BACKUP_ROLE[@]}"
    said_that "rsyncd.conf:1 has a module [data] already"
    untouched /srv/data /etc/rsyncd.conf
}

# cut_off AT WORDS…: the call is killed in the middle of its AT-th change on disk; false when it ended before.
cut_off() {
    local at=$1 name
    shift
    mkdir -p /tmp/cut
    echo 0 >/tmp/cut/count
    for name in mv mkdir sync chown; do
        cat >/tmp/cut/$name <<END
#!/bin/bash
count=\$((\$(</tmp/cut/count) + 1))
echo \$count >/tmp/cut/count
if [[ \$count -eq $at ]]; then
    kill -KILL \$PPID
    exit 1
fi
exec /bin/$name "\$@"
END
        chmod 755 /tmp/cut/$name
    done
    ! PATH=/tmp/cut:$PATH scripts/deploy "$@" >/tmp/cut/said 2>&1
}

interrupted_anywhere_then_completed() {
    local at=1
    while cut_off "$at" "${BACKUP_ROLE[@]}"; do
        rm -rf /tmp/fansync-deploy.*
        at=$((at + 4))
    done
    [[ $at -gt 12 ]] || broken "only $at steps"
    deploy 0 "${BACKUP_ROLE[@]}"
    said_that "nothing to change"
    deploy 0 backup --uninstall
    untouched
}

interrupted_anywhere_then_taken_back() {
    local at=1
    while cut_off "$at" "${BACKUP_ROLE[@]}"; do
        rm -rf /tmp/fansync-deploy.*
        # Some of them in the middle of that, too.
        if [[ $((at % 5)) -eq 0 ]] && cut_off 2 backup --uninstall; then rm -rf /tmp/fansync-deploy.*; fi
        scripts/deploy backup --uninstall || broken "after $at steps"
        untouched
        at=$((at + 1))
    done
    [[ $at -gt 25 ]] || broken "only $at steps"
}
