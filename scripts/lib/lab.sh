# shellcheck shell=bash
# A lab: a client, a router, the director and real servers in network namespaces of their own, with
# Shunt on DPDK's virtual devices. Sourced by scripts/labs/* and scripts/demo; nothing here touches
# the machine's own network. The end-to-end tests build their own, stricter lab in scripts/e2e.
#
# Every lab has its own prefix ($LAB, from the process id), so that labs run side by side, and keeps
# what it made under /run/shunt-labs/$LAB: `--stop` and the next lab's start find there what to
# remove, even after a kill -9.
#
# Nodes: c (client), r (router), d (director), s1.. (real servers), and sw, which holds the bridges
# that stand for switches. `on NODE COMMAND` runs a command in a node.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LIB=$ROOT/scripts/lib
LABS=/run/shunt-labs
SHUNTD=${SHUNTD:-${CARGO_TARGET_DIR:-$ROOT/target}/release/shuntd}
SHUNT=${SHUNT:-${CARGO_TARGET_DIR:-$ROOT/target}/release/shunt}
# A runtime root in which shuntd is run, instead of from here (scripts/lib/runtime-root makes one).
SHUNT_ROOT=${SHUNT_ROOT:-}

# shellcheck source=scripts/lib/packages.sh
. "$LIB/packages.sh"

# --- Talking ---

heading() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Prints a command as the operator would type it, then runs it.
show() {
    if [ "$1" = on ]; then
        printf '$ ip netns exec %s-%s %s\n' "$LAB" "$2" "${*:3}"
    else
        printf '$ %s\n' "$*"
    fi
    "$@"
}

# Runs a command until it succeeds, for so many seconds at most.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# --- Life of a lab ---

# lab_open NAME [--stay | --stop]: takes the script's arguments, prepares an empty lab.
lab_open() {
    local name=$1 option
    shift
    LAB_STAY=''
    for option; do
        case $option in
        --stay) LAB_STAY=1 ;;
        --stop)
            lab_stop "$name"
            exit 0
            ;;
        *)
            echo "usage: $0 [--stay | --stop]"
            echo "  --stay  leave the lab running when all is shown"
            echo "  --stop  remove what --stay left"
            [ "$option" = --help ] && exit 0
            exit 2
            ;;
        esac
    done
    [ "$(id -u)" -eq 0 ] || fail "a lab makes network namespaces, which only root may do"
    [ -e /dev/net/tun ] || fail "/dev/net/tun is missing: load the tun module, or give the container the device"
    packages_need "${packages_lab[@]}"
    lab_sweep
    lab_build_shunt

    LAB=sh$$
    LAB_DIR=$LABS/$LAB
    mkdir -p "$LAB_DIR"
    echo "$name" >"$LAB_DIR/name"
    lab_identity $$ >"$LAB_DIR/owner"
    trap lab_close EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
}

# Builds the two programs unless they are there (or named by SHUNTD and SHUNT).
lab_build_shunt() {
    [ -x "$SHUNTD" ] && [ -x "$SHUNT" ] && return
    packages_need "${packages_build[@]}"
    export LIBCLANG_PATH=${LIBCLANG_PATH:-/usr/lib/llvm-14/lib}
    heading "Building Shunt (release)"
    (cd "$ROOT" && cargo build --release -p shuntd -p shunt-cli)
}

# At exit: removes the lab, or leaves it and says how to play with it and how to remove it.
lab_close() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ "$status" -eq 0 ] && [ -n "$LAB_STAY" ]; then
        rm -f "$LAB_DIR/owner"
        cat <<STAY

The lab stays. Its nodes are network namespaces:
$(ip netns list | awk -v lab="$LAB-" 'index($1, lab) == 1 { print "  " $1 }' | sort | tr '\n' ' ')

  ip netns exec $LAB-c curl http://VIP/       a request by the client
  ip netns exec $LAB-d ip addr                the director's kernel
  ip netns exec $LAB-s1 tcpdump -ni eth0      what a real server sees
  $SHUNT --socket $LAB_DIR/shunt.sock services
                                              the director's tables (also: sessions, servers, counters)
  $LAB_DIR/shunt.toml, $LAB_DIR/shuntd.log    its configuration, what it says
  $0 --stop                                   ends the lab
STAY
        return
    fi
    # (More than 128: ended by a signal, which says nothing about shuntd.)
    if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -s "$LAB_DIR/shuntd.log" ]; then
        echo "-- last words of shuntd:" >&2
        tail -n 20 "$LAB_DIR/shuntd.log" >&2
    fi
    lab_remove "$LAB_DIR"
    exit "$status"
}

# A process, told apart from a later one with the same id: its id and start time.
lab_identity() {
    [ -e "/proc/$1/stat" ] && echo "$1 $(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20)"
}

# Whether the process of such an identity still lives.
lab_alive() { [ "$(lab_identity "$1" 2>/dev/null)" = "$1 $2" ]; }

# Ends the processes of a lab, the last one first, then removes its namespaces and files.
lab_remove() {
    local dir=$1 lab=${1##*/} pid start namespace
    if [ -e "$dir/processes" ]; then
        while read -r pid start; do
            lab_alive "$pid" "$start" || continue
            kill "$pid" 2>/dev/null || true
            await 5 lab_gone "$pid" "$start" || kill -KILL "$pid" 2>/dev/null || true
        done < <(tac "$dir/processes")
    fi
    for namespace in $(ip netns list | awk -v lab="$lab-" 'index($1, lab) == 1 { print $1 }'); do
        ip netns del "$namespace"
    done
    [ ! -e "$dir/scratch" ] || xargs -r rm -rf <"$dir/scratch"
    rm -rf "$dir" "/dev/shm/$lab.sessions"
}

# A directory for large files, on disk (/run is memory); it goes with the lab.
lab_scratch() {
    local dir
    dir=$(mktemp -d /var/tmp/shunt-lab.XXXXXX)
    echo "$dir" >>"$LAB_DIR/scratch"
    echo "$dir"
}

lab_gone() { ! lab_alive "$@"; }

# Removes the labs of this name that stayed.
lab_stop() {
    local dir
    for dir in "$LABS"/sh*; do
        if [ -e "$dir/name" ] && [ "$(cat "$dir/name")" = "$1" ] && [ ! -e "$dir/owner" ]; then
            lab_remove "$dir"
            echo "Removed ${dir##*/}."
        fi
    done
}

# Removes what labs left whose script was killed.
lab_sweep() {
    local dir pid start
    for dir in "$LABS"/sh*; do
        [ -e "$dir/owner" ] || continue
        read -r pid start <"$dir/owner" || true
        lab_alive "$pid" "$start" || lab_remove "$dir"
    done
}

# --- Nodes and cables ---

on() {
    local name=$1
    shift
    ip netns exec "$LAB-$name" "$@"
}

node() {
    local name
    for name; do
        ip netns add "$LAB-$name"
        ip -n "$LAB-$name" link set lo up
        # Replies to a VIP leave by another way than requests come.
        on "$name" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
    done
}

# switch NAME...: bridges in the node sw.
switch() {
    local name
    for name; do
        ip -n "$LAB-sw" link add "$name" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
        ip -n "$LAB-sw" link set "$name" up
    done
}

# cable NODE INTERFACE SWITCH [ADDRESS/LENGTH...]: an Ethernet cable. Nothing is offloaded, so that
# every frame on it is one that could be on a real wire.
cable() {
    local name=$1 interface=$2 bridge=$3 address
    shift 3
    ip -n "$LAB-sw" link add "$name-$interface" type veth peer name "$interface" netns "$LAB-$name"
    ip -n "$LAB-sw" link set "$name-$interface" master "$bridge" up
    on "$name" ethtool -K "$interface" tx off tso off gso off gro off rx off >/dev/null
    ip -n "$LAB-$name" link set "$interface" up
    for address; do
        ip -n "$LAB-$name" addr add "$address" dev "$interface"
    done
}

# spawn NODE NAME COMMAND...: starts a process that lives until the lab is removed; its output goes
# to NAME.log. Its identity is left in $SPAWNED.
spawn() {
    local name=$1 log=$LAB_DIR/$2.log
    shift 2
    # setsid: Ctrl-C is for the script, which then ends its processes in order.
    setsid ip netns exec "$LAB-$name" "$@" </dev/null >"$log" 2>&1 &
    SPAWNED=$(lab_identity $!) || fail "$1 ended at once: $(cat "$log")"
    echo "$SPAWNED" >>"$LAB_DIR/processes"
}

# --- The usual network ---

# lab_network KIND: client 10.0.0.10, router, director 172.16.1.3 and three real servers.
#   one-arm  the director and the servers share 172.16.1.0/24
#   two-arm  the servers are behind the director, in 172.16.2.0/24
#   far      the servers are behind the router, in 172.16.2.0/24
lab_network() {
    local kind=$1 servers=inside prefix=172.16.2
    [ "$kind" = one-arm ] && prefix=172.16.1
    heading "Network: client, router, director and three real servers ($kind)"
    node sw c r d s1 s2 s3
    switch outside inside
    cable c eth0 outside 10.0.0.10/24
    ip -n "$LAB-c" route add default via 10.0.0.200
    cable r outer outside 10.0.0.200/24
    cable r inner inside 172.16.1.200/24
    on r sysctl -qw net.ipv4.ip_forward=1
    wire 0 inside
    if [ "$kind" != one-arm ]; then
        servers=behind
        switch behind
        [ "$kind" = two-arm ] && wire 1 behind
        [ "$kind" = far ] && cable r behind behind 172.16.2.200/24
    fi
    for n in 1 2 3; do
        cable "s$n" eth0 "$servers" "$prefix.$((n + 4))/24"
    done
}

# wire N SWITCH: the director's port N is plugged into a switch. `wireN` is the cable's end in the
# director's namespace; director_start connects DPDK's dtapN to it.
wire() {
    # Neither end of the cable is the director's own interface; that is the mirror.
    on d sysctl -qw net.ipv6.conf.default.disable_ipv6=1
    cable d "wire$1" "$2"
}

# --- The director ---

# director_start < CONFIGURATION: starts shuntd with net_tap devices dtap0, dtap1, one for each wire,
# connects them, and waits until the API answers. @CORES@ and the like are filled in.
director_start() {
    local wire n
    sed "s|@DIR@|$LAB_DIR|g; s|@LAB@|$LAB|g; s|@WORKER@|$(($(nproc) > 1))|g" >"$LAB_DIR/shunt.toml"
    heading "Director"
    printf '$ shuntd --config %s\n' "$LAB_DIR/shunt.toml"
    if [ -n "$SHUNT_ROOT" ]; then
        spawn d shuntd "$LIB/enter-root" "$SHUNT_ROOT" "$LAB_DIR" \
            shuntd --config "$LAB_DIR/shunt.toml"
    else
        spawn d shuntd "$SHUNTD" --config "$LAB_DIR/shunt.toml"
    fi
    await 30 director_settled
    shunt status >/dev/null || fail "shuntd does not answer"
    for wire in $(ip -n "$LAB-d" -o link show type veth | grep -o 'wire[0-9]*' | sort -u); do
        n=${wire#wire}
        await 5 ip -n "$LAB-d" link show "dtap$n" || fail "DPDK made no interface dtap$n"
        patch_cable "dtap$n" "$wire"
    done
}

# Answers or has ended. ($SPAWNED: id and start time are two words.)
# shellcheck disable=SC2086
director_settled() { shunt status || lab_gone $SPAWNED; }

# patch_cable A B: every frame that comes in by one interface goes out by the other; the kernel's
# stack between them sees none.
patch_cable() {
    on d nft -f - <<NFT
table netdev $1 {
    chain out  { type filter hook ingress device $1 priority 0; fwd to $2; }
    chain back { type filter hook ingress device $2 priority 0; fwd to $1; }
}
NFT
}

# director_address N ADDRESS/LENGTH...: addresses on port N's mirror, as an operator sets them.
director_address() {
    local interface=shunt$1 address
    shift
    for address; do
        show ip -n "$LAB-d" addr add "$address" dev "$interface"
    done
}

shunt() { "$SHUNT" --socket "$LAB_DIR/shunt.sock" "$@"; }

# --- Real servers ---

# server_start NODE...: nginx and a UDP server on each.
server_start() {
    local name dir
    for name; do
        dir=$LAB_DIR/$name
        mkdir -p "$dir/www" "$dir/up"
        sed "s|@NAME@|$name|g; s|@DIR@|$dir|g" "$LIB/nginx.conf" >"$dir/nginx.conf"
        # -e: nginx would complain that it may not write its built-in log.
        spawn "$name" "$name-nginx" nginx -e "$dir/nginx.log" -c "$dir/nginx.conf"
        spawn "$name" "$name-udp" "$LIB/udp-server" "$name" 53 5353
    done
    for name; do
        await 10 on "$name" curl -s -o /dev/null --max-time 1 http://127.0.0.1/ ||
            fail "nginx of $name does not answer"
    done
}

# server_gateway ADDRESS NODE...
server_gateway() {
    local gateway=$1 name
    shift
    for name; do
        ip -n "$LAB-$name" route replace default via "$gateway"
    done
}

# server_setup SERVICE NODE...: does what `shunt rs-setup` says on each server.
server_setup() {
    local service=$1 name
    shift
    show shunt rs-setup "$service"
    for name; do
        if shunt rs-setup "$service" | grep -q tunl0 && ! lab_has_ipip; then
            echo "# $LAB-$name: this kernel has no ipip device; a BPF program takes its place"
            shunt rs-setup "$service" | sed '/tunl0/d' | on "$name" sh
            server_tunnel "$name"
        else
            printf '$ shunt rs-setup %s | ip netns exec %s sh\n' "$service" "$LAB-$name"
            shunt rs-setup "$service" | on "$name" sh
        fi
    done
}

# Whether the kernel has ipip devices: tunl0 is in every namespace then.
lab_has_ipip() {
    modprobe ipip 2>/dev/null || true
    ip -n "$LAB-sw" link show tunl0 >/dev/null 2>&1
}

# server_vip VIP NODE...: the VIP on the loopback, silent to ARP, so that the director alone answers
# for it on the wire. For DR and TUN.
server_vip() {
    local vip=$1 name
    shift
    for name; do
        on "$name" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        ip -n "$LAB-$name" addr add "$vip/32" dev lo
    done
}

# server_tunnel NODE...: takes IP-in-IP packets apart, by an ipip device where the kernel has it,
# else by a BPF program that does the same.
server_tunnel() {
    local name object=$LAB_DIR/decap.o
    for name; do
        if lab_has_ipip; then
            ip -n "$LAB-$name" link set tunl0 up
            on "$name" sysctl -qw net.ipv4.conf.tunl0.rp_filter=0
            continue
        fi
        [ -e "$object" ] || lab_bpf decap "$object"
        tc -n "$LAB-$name" qdisc add dev eth0 clsact
        tc -n "$LAB-$name" filter add dev eth0 ingress prio 2 \
            bpf direct-action object-file "$object" section tc
    done
}

# lab_bpf NAME OBJECT [-DMACRO=VALUE...]
lab_bpf() {
    local source=$LIB/bpf/$1.c object=$2
    shift 2
    clang-14 -target bpf -O2 -g -Wall -Werror "-I/usr/include/$(uname -m)-linux-gnu" "$@" \
        -c "$source" -o "$object"
}

# --- Trying it ---

# spread VIP COUNT NODE...: that many requests by curl; all must be answered, by all these servers.
spread() {
    local vip=$1 count=$2 answers='' answer name
    shift 2
    printf '$ for i in {1..%d}; do curl http://%s/; done        (on the client)\n' "$count" "$vip"
    for ((i = 0; i < count; i++)); do
        answer=$(on c curl -sS --max-time 5 "http://$vip/") || fail "request $((i + 1)) to $vip"
        echo "$answer"
        answers+="$answer"$'\n'
    done
    for name; do
        grep -q "This is $name;" <<<"$answers" || fail "no request to $vip reached $name"
    done
}

# tables: what the director has to say.
tables() {
    heading "The director's tables"
    show shunt status
    show shunt services
    show shunt sessions
}
