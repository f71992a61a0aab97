# shellcheck shell=bash disable=SC2154 # for scripts/quickstart, which has what is not defined here
# The show of scripts/quickstart --fan-out: a feed, two relays and eight followers, each with a fansync of its own.

FOLLOWERS=8

# port: one that nobody listens on.
port() {
    local try
    for try in {1..50}; do
        port=$((20000 + RANDOM % 12000))
        if ! listening; then return; fi
    done
    fail "no port is free, after $try tries"
}

# host NAME TABLES: a fansync with these tables of a configuration, as on a host of its own.
host() {
    local dir=$work/host-$1
    mkdir -p "$dir"
    printf '[daemon]\nstate_dir = "%s/state"\nstatus_socket = "%s/sock"\n%s\n' "$dir" "$dir" "$2" >"$dir/fansync.toml"
    "$fansync" run --config "$dir/fansync.toml" >>"$work/fansync.log" 2>&1 &
    children+=($!)
    pids[$1]=$!
}

at() { "$fansync" "${@:2}" --socket "$work/host-$1/sock"; }

# follower NAME UPSTREAM… [-- SERVE]: pulls from these modules in this order, and from the source's at last.
follower() {
    local name=$1 list='' serve=''
    shift
    while [[ $# -gt 0 && $1 != -- ]]; do
        list+="\"rsync://127.0.0.1:$rsyncd/$1\", "
        shift
    done
    if [[ ${2:-} != '' ]]; then serve="serve = \"rsync://127.0.0.1:$rsyncd/$2\""; fi
    mkdir "$work/$name"
    host "$name" "[[follow]]
name = \"web\"
servers = [\"nats://127.0.0.1:$nats\"]
follower = \"$name\"
directory = \"$work/$name\"
upstream = [$list\"rsync://127.0.0.1:$rsyncd/source\"]
$serve
spread = \"100ms\"
retry_max = \"1s\""
}

# arrives_everywhere PATH TEXT: writes a file, and waits until all copies hold that text; sets `first` and `last`, in microseconds.
arrives_everywhere() {
    local begun end name left=("${names[@]}") more
    begun=$(now)
    first=
    printf '%s' "$2" >"$source_dir/$1"
    end=$((SECONDS + 120))
    while [[ ${#left[@]} -gt 0 ]]; do
        more=()
        for name in "${left[@]}"; do
            if [[ -e $work/$name/$1 && $(<"$work/$name/$1") == "$2" ]]; then
                last=$(($(now) - begun))
                first=${first:-$last}
            else
                more+=("$name")
            fi
        done
        left=("${more[@]}")
        if [[ $SECONDS -gt $end ]]; then fail "$1 did not arrive within 120 seconds at ${left[*]}"; fi
    done
}

# who_pulls: of each place, how many followers pull from it.
who_pulls() {
    at source status --json | grep -oE '"upstream": *"[^"]*"' | sed -E 's#.*/([^/"]*)"#\1#' | sort | uniq -c |
        while read -r count place; do printf '%s from %s; ' "$count" "$place"; done
}

fan_out() {
    local n name begun rsyncd nats
    declare -gA pids=()
    names=(relay1 relay2)
    for ((n = 1; n <= FOLLOWERS; n++)); do names+=("web$n"); done

    say ""
    say "1. A source, an rsync daemon that serves it, and a NATS server with JetStream"
    fill
    port && rsyncd=$port
    {
        printf 'socket options = TCP_NODELAY\naddress = 127.0.0.1\nreverse lookup = no\nuse chroot = yes\nmunge symlinks = no\nnumeric ids = yes\nuid = root\ngid = root\nread only = yes\n'
        for name in source relay1 relay2; do printf '[%s]\npath = %s/%s\n' "$name" "$work" "$name"; done
    } >"$work/rsyncd.conf"
    rsync --daemon --no-detach --port="$rsyncd" --config="$work/rsyncd.conf" --log-file="$work/rsyncd.log" &
    children+=($!)
    eventually 10 listening || fail "no rsync daemon would start: $(cat "$work/rsyncd.log")"
    port && nats=$port
    printf 'listen: 127.0.0.1:%s\njetstream { store_dir: "%s/jetstream" }\n' "$nats" "$work" >"$work/nats.conf"
    nats-server -c "$work/nats.conf" >"$work/nats.log" 2>&1 &
    children+=($!)
    eventually 10 listening || fail "no nats-server would start: $(cat "$work/nats.log")"
    say "  rsync daemon on port $rsyncd, nats-server on port $nats, both on 127.0.0.1 only"

    say ""
    say "2. A fansync that publishes, two relays, and $FOLLOWERS followers behind them"
    begun=$(now)
    host source "[[mirror]]
name = \"web\"
source = \"$source_dir\"
[[mirror.feed]]
name = \"mirrors\"
servers = [\"nats://127.0.0.1:$nats\"]"
    follower relay1 -- relay1
    follower relay2 -- relay2
    for ((n = 1; n <= FOLLOWERS; n++)); do
        if [[ $((n % 2)) -eq 1 ]]; then follower "web$n" relay1 relay2; else follower "web$n" relay2 relay1; fi
    done
    # shellcheck disable=SC2317 # called by name
    known() { at source flush --followers "$(tr ' ' , <<<"${names[*]}")" --timeout 5s >/dev/null 2>&1; }
    eventually 300 known || fail "not all followers have the tree: $(at source status)"
    say "  every follower has the whole tree after $(ms $(($(now) - begun)))"
    say "  $(who_pulls)"

    say ""
    say "3. A file is written: how long until all ${#names[@]} copies have it?"
    for n in 1 2 3 4 5; do
        arrives_everywhere "hello-$n.txt" "hello, copies, number $n"
        say "  hello-$n.txt  the first copy $(ms "$first"), the last $(ms "$last")"
    done

    say ""
    say "4. One relay is killed, kill -9, and a file of 400 kB is written: more than travels in the feed, so it is pulled"
    kill -KILL "${pids[relay1]}"
    wait "${pids[relay1]}" 2>/dev/null || true
    names=("${names[@]:1}")
    begun=$(now)
    arrives_everywhere after.txt "$(head -c 400000 /dev/zero | tr '\0' x)"
    say "  it is on the last of ${#names[@]} copies after $(ms "$last")"
    if ! eventually 60 passed_over_by_followers; then fail "followers wait for relay1: $(who_pulls)"; fi
    say "  its followers have passed over: $(who_pulls)"

    say ""
    say "5. Twenty changes, and a barrier:  fansync flush --followers"
    for n in {1..20}; do printf '%s\n' "$n" >"$source_dir/barrier-$n"; done
    begun=$(now)
    at source flush --followers "$(tr ' ' , <<<"${names[*]}")" --timeout 60s >/dev/null || fail "the barrier did not come about"
    say "  it returned after $(ms $(($(now) - begun)))"
    for name in "${names[@]}"; do
        for n in {1..20}; do cmp -s "$source_dir/barrier-$n" "$work/$name/barrier-$n" || fail "$name lacks barrier-$n after the barrier"; done
    done
    say "  and every one of ${#names[@]} copies has all of them"
    for name in "${names[@]}"; do
        if ! diff -r --no-dereference --exclude=.fansync "$source_dir" "$work/$name" >"$work/diff" 2>&1; then
            head -n 5 "$work/diff" >&2
            fail "$name differs"
        fi
    done
    say "  no byte differs in any of them"
    say ""
    at source status || true
    say ""
    say "Done; everything it made is removed again. How to set it up on hosts: docs/fan-out.md"
}

# The killed relay itself is known with its last report.
passed_over_by_followers() {
    ! at source status --json | tr -d '\n ' | grep -oE '\{"name":"web[0-9]+"[^}]*\}' | grep -qE '"upstream":"[^"]*/relay1"'
}
