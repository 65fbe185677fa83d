# A Debian in a container with a real systemd, and a client in a network namespace beside it. For
# tools/under-systemd and tools/packages-test, which source this file.
# shellcheck shell=bash
# shellcheck disable=SC2034  # some are for those who source it
export LC_ALL=C
# A Debian is fetched once per release, and kept outside the tree.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/toctoc
machine=tsd-$$ space=toctoc-sd-$$ net=10.97.7
TREE=systemd,systemd-sysv,dbus,openssh-server,iproute2,ifupdown,procps,libpam-systemd
# What the tests install later, without a network.
FETCHED="nftables iptables knockd logrotate rpm"

# Run a command inside the container, as the client, and over ssh.
inside() { nsenter -a -t "$pid" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_PAGER=cat TERM=dumb "${@:2}" sh -c "$1"; }
client() { ip netns exec "$space" env HOME="$home" "$toctoc" "$@"; }
ssh_in() {
    ip netns exec "$space" ssh -q -i "$key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2 \
        -o BatchMode=yes "root@$net.1" "$@"
}
guarded() { inside 'nft list table inet toctoc >/dev/null 2>&1'; }
# eventually WHAT COMMAND: tries for ten seconds.
eventually() {
    for _ in $(seq 40); do
        inside "$2" >/dev/null 2>&1 && return
        sleep 0.25
    done
    fail "$1"
}
ok() { echo "ok    $1"; }
fail() {
    echo "FAIL  $1"
    [ -z "${pid:-}" ] || inside 'journalctl -b -u toctocd -u toctoc-guard -n 30 --no-hostname' || true
    exit 1
}
halt() {
    if [ -n "${nspawn:-}" ]; then
        # SIGRTMIN+4 tells systemd to power off.
        kill -s RTMIN+4 "${pid:-}" 2>/dev/null || kill "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    ip netns del "$space" 2>/dev/null || true
}

# make_tree SUITE NAME: a fresh Debian in target/NAME-SUITE, and a key for root.
make_tree() {
    [ "$(id -u)" = 0 ] || { echo "a container needs root" >&2; exit 2; }
    tools/setup only trees
    root=$PWD/target/$2-$1 home=$root.home log=$root.log key=$root.key toctoc=$root/usr/bin/toctoc
    local fresh=$cache/debian-$1
    mkdir -p "$cache" target
    if [ ! -e "$fresh" ]; then
        rm -rf "$fresh.new"
        debootstrap --variant=minbase --include=$TREE "$1" "$fresh.new" >"$log"
        # shellcheck disable=SC2086  # words
        chroot "$fresh.new" sh -ec "apt-get clean; apt-get -qq update
            apt-get -qq install --download-only --no-install-recommends $FETCHED" >>"$log" 2>&1
        mv "$fresh.new" "$fresh"
    fi
    rm -rf "$root" "$home" "$key" "$key.pub"
    cp -a "$fresh" "$root"
    ssh-keygen -q -t ed25519 -N '' -f "$key"
    mkdir -p "$root/root/.ssh" "$root/var/log/journal" "$home"
    cp "$key.pub" "$root/root/.ssh/authorized_keys"
    printf 'auto lo\niface lo inet loopback\nauto host0\niface host0 inet static\n  address %s.1/24\n' $net >"$root/etc/network/interfaces"
    printf 'PermitRootLogin yes\nUseDNS no\n' >"$root/etc/ssh/sshd_config.d/toctoc.conf"
    # Fails in trixie without libkmod; a container loads no modules anyway.
    systemctl --root="$root" -q mask systemd-modules-load
    systemctl --root="$root" -q enable networking ssh
    ip netns add "$space"
    ip -n "$space" link set lo up
}

# The process that is the first one inside.
first_process() {
    local child
    for child in $(ps -o pid= --ppid "$nspawn"); do
        grep -qsP '^NSpid:.*\t1$' "/proc/$child/status" && echo "$child" && return
    done
    return 1
}

# Boots it, with the client at the other end of its link.
boot() {
    # The container's own system call filter includes neither landlock nor bpf.
    systemd-nspawn -q -D "$root" -M "$machine" --boot --register=no --keep-unit --network-veth --capability=all --console=pipe \
        --system-call-filter="bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self" </dev/null >"$log" 2>&1 &
    nspawn=$!
    # The outer end of its link. A longer machine name would be truncated there.
    local veth=ve-$machine state
    for _ in $(seq 300); do
        pid=$(first_process) && ip link set "$veth" netns "$space" 2>/dev/null && break
        kill -0 $nspawn 2>/dev/null || { cat "$log"; exit 1; }
        sleep 0.1
    done
    ip -n "$space" link set "$veth" up
    ip -n "$space" addr add $net.2/24 dev "$veth"
    for _ in $(seq 120); do
        state=$(inside 'systemctl is-system-running' 2>/dev/null || true)
        case $state in running | degraded) break ;; esac
        sleep 0.5
    done
    [ "$state" = running ] || { inside 'systemctl --failed'; fail "boot: $state"; }
    ok "boot, $(inside 'systemctl --version | head -n 1'), kernel $(uname -r)"
}
