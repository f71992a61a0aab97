# shellcheck shell=bash disable=SC2034,SC2154,SC2153 # scripts/deploy reads all of these files together
# One change at a time: tell it, record it, make it; and the way back.
#
# A change is recorded before it is made, so whatever an interruption leaves behind is known: a second run completes it, and
# --uninstall takes it back. Records are lines of fields with a tab between:
#
#   file     PATH SHA256        was not there before; with another hash it is somebody else's by now
#   changed  PATH SHA256 COPY   was there before, as saved/COPY holds it
#   dir      PATH               goes when it is empty
#   tree     PATH               a service's own directory: goes with what is in it
#   user     NAME, group NAME   made here; the comment says so too
#   sysctl   KEY VALUE          the value before
#   enabled  UNIT, started UNIT
#
# Roles share files (the program, /etc/fansync): what another role's record names stays until that one is taken back too.

# Set by scripts/deploy: ROOT, DRY, REPLACE, ID (role and instance), STAGE (a scratch directory).
STATE=/var/lib/fansync-deploy
SUFFIX=.fansync-deploy-new
MADE_BY="made by fansync's scripts/deploy"
BLOCK_BEGIN="# BEGIN fansync (scripts/deploy)"
BLOCK_END="# END fansync (scripts/deploy)"
changes=0
unchanged=0
kept=()
notes=()
units_changed=0
binary_changed=0

manifest() { printf '%s' "$ROOT$STATE/$ID.manifest"; }
sha() { sha256sum <"$1" | cut -d' ' -f1; }
note() { notes+=("$*"); }
keep() { kept+=("$*"); }

# change MARK TEXT: a line about something that is done, or would be.
change() {
    changes=$((changes + 1))
    say "  $1 $2"
}

# stop_because CODE WHAT HELP
stop_because() {
    printf 'error: %s\n' "$2" >&2
    if [[ -n ${3:-} ]]; then printf 'help: %s\n' "$3" >&2; fi
    exit "$1"
}

record() {
    local line
    printf -v line '%s\t' "$@"
    line=${line%$'\t'}
    if ! grep -qxF -- "$line" "$(manifest)" 2>/dev/null; then
        printf '%s\n' "$line" >>"$(manifest)"
        sync "$(manifest)"
    fi
}

# begin_changes: one deployment at a time, and a place for the records.
begin_changes() {
    if [[ $DRY -eq 1 ]]; then return 0; fi
    (umask 077 && mkdir -p "$ROOT$STATE/saved")
    exec 9>>"$ROOT$STATE/lock"
    flock -n 9 || stop_because 1 "another scripts/deploy is at work ($ROOT$STATE/lock)" "wait until it has ended"
    if [[ ! -e $(manifest) ]]; then touch "$(manifest)"; fi
}

# is_recorded KIND PATH [SHA]: by any role.
is_recorded() {
    local file
    for file in "$ROOT$STATE"/*.manifest; do
        if [[ ! -e $file ]]; then continue; fi
        awk -F'\t' -v kind="$1" -v path="$2" -v sum="${3:-}" \
            '$1 == kind && $2 == path && (sum == "" || $3 == sum) { found = 1 } END { exit !found }' "$file" && return 0
    done
    return 1
}

# others_need KIND PATH [below]: another role's record names it, or something below it.
others_need() {
    local file
    for file in "$ROOT$STATE"/*.manifest; do
        if [[ ! -e $file || $file == "$(manifest)" ]]; then continue; fi
        awk -F'\t' -v kind="$1" -v path="$2" -v below="${3:-}" \
            '($1 == kind && $2 == path) || (below != "" && index($2, path "/") == 1) { found = 1 } END { exit !found }' "$file" && return 0
    done
    return 1
}

# show_change PATH FROM KIND: what a dry run says about a file's content.
show_change() {
    local at=$ROOT$1 from=$2
    case $3 in
    binary) say "      $(stat -c %s "$from") bytes, sha256 $(sha "$from")" ;;
    secret | hidden) say "      (it has secrets; not shown)" ;;
    *)
        if [[ -e $at ]]; then
            diff -u --label "$1" --label "$1 (new)" "$at" "$from" | sed 's/^/      /' || true
        else
            sed 's/^/      + /' "$from"
        fi
        ;;
    esac
}

# put FROM PATH MODE OWNER: replaces the file in one step.
put() {
    local new=$ROOT$2$SUFFIX
    rm -f "$new"
    install -m 600 "$1" "$new"
    chown "$4" "$new"
    chmod "$3" "$new"
    sync "$new"
    mv -T "$new" "$ROOT$2"
}

# save_copy PATH: the name in saved/ of a copy of what is there; made once.
save_copy() {
    local name="$ID${1//\//%}"
    if [[ ! -e $ROOT$STATE/saved/$name ]]; then
        cp -a "$ROOT$1" "$ROOT$STATE/saved/$name.new"
        sync "$ROOT$STATE/saved/$name.new"
        mv -T "$ROOT$STATE/saved/$name.new" "$ROOT$STATE/saved/$name"
    fi
    printf '%s' "$name"
}

# write_over FROM PATH MODE OWNER MARK KIND: tells, records and does it, for a file that is or is not there.
write_over() {
    local from=$1 path=$2 mode=$3 owner=$4 mark=$5 kind=$6
    change "$mark" "file $path (mode $mode, owner $owner)"
    case $kind in
    unit) units_changed=1 ;;
    binary) binary_changed=1 ;;
    esac
    if [[ $DRY -eq 1 ]]; then
        show_change "$path" "$from" "$kind"
    elif [[ $mark == '+' ]] || is_recorded file "$path" "$(sha "$ROOT$path")"; then
        record file "$path" "$(sha "$from")"
        put "$from" "$path" "$mode" "$owner"
    else
        record changed "$path" "$(sha "$from")" "$(save_copy "$path")"
        put "$from" "$path" "$mode" "$owner"
    fi
}

# want_file FROM PATH MODE OWNER KIND: PATH holds what FROM holds. OWNER is UID:GID.
#
# KIND: binary and unit have to be ours or equal, else nothing works and it stops; config is left alone where an administrator wrote it;
# a secret that is there is never replaced unless --replace says so. hidden: a config with secrets in it.
want_file() {
    local from=$1 path=$2 mode=$3 owner=$4 kind=$5 at=$ROOT$2 why
    if [[ ! -e $at && ! -L $at ]]; then
        write_over "$from" "$path" "$mode" "$owner" + "$kind"
        return
    fi
    [[ -f $at && ! -L $at ]] || stop_because 1 "$at is there and is not a regular file" "move it away, or see what it is for"
    if cmp -s "$from" "$at"; then
        want_attributes "$path" "$mode" "$owner"
        return
    fi
    if [[ ($kind == config || $kind == hidden) && $REPLACE -eq 0 ]] && others_need file "$path"; then
        stop_because 1 "$path is the configuration of another role on this host" "take that one back first, or write into $at by hand what both need"
    fi
    if is_recorded file "$path" "$(sha "$at")" || is_recorded changed "$path" "$(sha "$at")"; then
        if [[ $kind != secret ]]; then
            write_over "$from" "$path" "$mode" "$owner" '~' "$kind"
            return
        fi
        why="holds another secret"
    elif is_recorded file "$path"; then
        why="was changed since it was put there"
    else
        why="was there before"
    fi
    if [[ $REPLACE -eq 1 ]]; then
        write_over "$from" "$path" "$mode" "$owner" '~' "$kind"
    elif [[ $kind == binary || $kind == unit ]]; then
        stop_because 1 "$at $why" "call this again with --replace: a copy is kept, and --uninstall brings it back"
    else
        keep "$path $why and is left as it is; --replace writes it anew (a copy is kept)"
    fi
}

want_attributes() {
    local path=$1 want="$2 $3" is
    is=$(stat -c '%a %u:%g' "$ROOT$1")
    if [[ $is == "$want" ]]; then
        unchanged=$((unchanged + 1))
        # One file of two roles: both have to be taken back before it goes.
        if [[ $DRY -eq 0 ]] && is_recorded file "$path" "$(sha "$ROOT$path")"; then record file "$path" "$(sha "$ROOT$path")"; fi
    elif is_recorded file "$path"; then
        change '~' "mode and owner of $path: $is -> $want"
        if [[ $DRY -eq 0 ]]; then
            chown "$3" "$ROOT$path"
            chmod "$2" "$ROOT$path"
        fi
    else
        keep "$path was there before with mode and owner $is; $want is meant"
    fi
}

# want_dir PATH MODE OWNER [tree]: an existing one is left as it is.
want_dir() {
    local kind=${4:-dir} parent
    if [[ -d $ROOT$1 ]]; then
        unchanged=$((unchanged + 1))
        if [[ $DRY -eq 0 ]]; then share_dir "$1" "$kind"; fi
        return
    fi
    [[ ! -e $ROOT$1 && ! -L $ROOT$1 ]] || stop_because 1 "$ROOT$1 is there and is not a directory" "move it away"
    parent=$(dirname "$1")
    if [[ ! -d $ROOT$parent ]]; then want_dir "$parent" 755 0:0; fi
    change + "directory $1 (mode $2, owner $3)"
    if [[ $DRY -eq 0 ]]; then
        record "$kind" "$1"
        mkdir "$ROOT$1"
        chown "$3" "$ROOT$1"
        chmod "$2" "$ROOT$1"
    fi
}

# share_dir PATH KIND: what another role has made, with the directories above, goes with the last one that uses it.
share_dir() {
    if is_recorded "$2" "$1"; then
        share_dir "$(dirname "$1")" dir
        record "$2" "$1"
    fi
}

# want_lines_at_top PATH TEXT: an existing file gets these lines before all others, between two marks; without a file it is made of them.
want_lines_at_top() {
    local path=$1 at=$ROOT$1 new=$STAGE/lines
    if [[ -e $at ]] && grep -qxF -- "$BLOCK_BEGIN" "$at"; then
        { printf '%s\n%s\n%s\n' "$BLOCK_BEGIN" "$2" "$BLOCK_END" && without_block "$at"; } >"$new"
    elif [[ -e $at ]]; then
        { printf '%s\n%s\n%s\n' "$BLOCK_BEGIN" "$2" "$BLOCK_END" && cat "$at"; } >"$new"
    else
        printf '%s\n%s\n%s\n' "$BLOCK_BEGIN" "$2" "$BLOCK_END" >"$new"
    fi
    if [[ ! -e $at ]]; then
        write_over "$new" "$path" 644 0:0 + config
    elif cmp -s "$new" "$at"; then
        unchanged=$((unchanged + 1))
    else
        write_over "$new" "$path" "$(stat -c %a "$at")" "$(stat -c %u:%g "$at")" '~' config
    fi
}

without_block() {
    awk -v begin="$BLOCK_BEGIN" -v end="$BLOCK_END" '$0 == begin { inside = 1 } !inside { print } $0 == end { inside = 0 }' "$1"
}

# entry_of FILE NAME: the line of a user or group in the passwd or group file of the root that is deployed into.
entry_of() {
    if [[ -z $ROOT ]]; then
        getent "$1" "$2" || true
    elif [[ -e $ROOT/etc/$1 ]]; then
        grep -m1 "^$2:" "$ROOT/etc/$1" || true
    fi
}

in_prefix() { if [[ -n $ROOT ]]; then printf -- '--prefix\n%s\n' "$ROOT"; fi; }

# want_user NAME [UID]: a system user that cannot log in, with a group of its name.
want_user() {
    local name=$1 number=${2:-} entry prefix words=()
    entry=$(entry_of passwd "$name")
    if [[ -n $entry ]]; then
        if [[ -n $number && $(cut -d: -f3 <<<"$entry") != "$number" ]]; then
            stop_because 1 "the user $name is there with the number $(cut -d: -f3 <<<"$entry"), not $number" "leave --uid out, or take another user"
        fi
        unchanged=$((unchanged + 1))
        return
    fi
    mapfile -t prefix < <(in_prefix)
    if [[ -z $(entry_of group "$name") ]]; then
        words=(groupadd ${prefix[0]+"${prefix[@]}"} --system ${number:+--gid "$number"} "$name")
        change + "group $name: ${words[*]}"
        if [[ $DRY -eq 0 ]]; then
            record group "$name"
            "${words[@]}"
        fi
    fi
    words=(useradd ${prefix[0]+"${prefix[@]}"} --system ${number:+--uid "$number"} --gid "$name" --no-create-home --home-dir /nonexistent
        --shell /usr/sbin/nologin --comment "$MADE_BY" "$name")
    change + "user $name: ${words[*]}"
    if [[ $DRY -eq 0 ]]; then
        record user "$name"
        "${words[@]}"
    fi
}

# numbers_of NAME: UID:GID.
numbers_of() {
    local entry
    entry=$(entry_of passwd "$1")
    if [[ -z $entry && $DRY -eq 1 ]]; then
        printf '%s:%s' "$1" "$1"
    else
        cut -d: -f3,4 <<<"$entry" | tr -d '\n'
    fi
}

finish_changes() {
    local line
    for line in ${kept[0]+"${kept[@]}"}; do say "  = $line"; done
    if [[ $changes -eq 0 ]]; then
        say "nothing to change: $unchanged things are as they should be"
    elif [[ $DRY -eq 1 ]]; then
        say "dry run: $changes changes would be made, none was"
    else
        say "$changes changes made"
    fi
    for line in ${notes[0]+"${notes[@]}"}; do printf '%s\n' "- $line"; done
}
