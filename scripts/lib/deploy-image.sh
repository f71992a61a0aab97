# shellcheck shell=bash
# A copy-on-write image of this host to deploy into: an overlay above /, whose upper layer is what was changed. For scripts/check/deploy
# and scripts/check/deploy-scene, in a mount namespace of their own.

# bare_layer WORK: a lower layer without what a fansync of this host's own has put there, as WORK/lower.
bare_layer() {
    local work=$1 root=$1/lower dir
    # What is a mount of its own is not in the overlay, and could be written through.
    for dir in /usr /etc /var /srv; do if mountpoint -q "$dir"; then return 1; fi; done
    mkdir -p "$work/bare" "$work/bare-work" "$root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/bare,workdir=$work/bare-work" "$root" || return 1
    rm -rf "$root"/{etc,var/lib}/fansync* "$root"/etc/rsyncd.{conf,d} "$root"/etc/systemd/system/{fansync,rsync.service.d}* \
        "$root"/usr/local/bin/fansync "$root"/usr/{bin,lib/systemd/system}/fansync* "$root/etc/sysctl.d/60-fansync.conf"
    umount "$root"
    mount -t overlay overlay -o "lowerdir=$work/bare:/" "$root"
}

# image WORK NAME REPOSITORY PROGRAM: a fresh one at WORK/NAME/root, with a /tmp and /run of its own; /run/image holds the repository, the program, and
# the layers: repo, fansync, lower, upper.
image() {
    local work=$1 at=$1/$2 root=$1/$2/root dir
    umount -R -l "$root" 2>/dev/null || true
    rm -rf "$at"
    mkdir -p "$at/upper" "$at/inner" "$root"
    mount -t overlay overlay -o "lowerdir=$work/bare:/,upperdir=$at/upper,workdir=$at/inner" "$root"
    for dir in /proc /sys /dev; do mount --rbind "$dir" "$root$dir"; done
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    # Not below /tmp, which systemd empties when it starts.
    mkdir -p "$root"/run/image/{lower,upper,repo}
    mount --bind "$work/lower" "$root/run/image/lower"
    mount --bind "$at/upper" "$root/run/image/upper"
    mount --bind "$3" "$root/run/image/repo"
    for dir in lower upper repo; do mount -o remount,bind,ro "$root/run/image/$dir"; done
    cp "$4" "$root/run/image/fansync"
}

# traces [PATH…], in an image: whatever differs from the lower layer in type, mode, owner or content, besides what is below these paths.
traces() {
    local path at gone
    while IFS= read -r -d '' path; do
        for at in "$@"; do if [[ /$path == "$at" || /$path == "$at"/* ]]; then continue 2; fi; done
        if [[ ! -e /run/image/lower/$path && ! -L /run/image/lower/$path ]]; then
            say "/$path is left"
        elif [[ ! -e /$path && ! -L /$path ]]; then
            say "/$path is gone"
        elif [[ $(stat -c '%F %a %u:%g' "/$path") != $(stat -c '%F %a %u:%g' "/run/image/lower/$path") ]]; then
            say "type, mode or owner of /$path differ"
        elif [[ -d /$path ]]; then
            # What is there and was not is an entry of the upper layer of its own.
            gone=$(comm -23 <(ls -A "/run/image/lower/$path") <(ls -A "/$path"))
            if [[ -n $gone ]]; then say "of /$path these are gone: ${gone//$'\n'/ }"; fi
        elif [[ -f /$path ]]; then
            cmp -s "/$path" "/run/image/lower/$path" || say "the content of /$path differs ($(sha256sum <"/$path"))"
        fi
    done < <(cd /run/image/upper && find . -mindepth 1 -printf '%P\0')
}
