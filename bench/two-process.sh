#!/bin/bash
# A real shuntd and shunt-pktgen, two processes, over shared memory (memif, vhost-user): rate, loss,
# latency, connections, SYN floods in each mode, what an idle worker costs and delays (P11), and a table of
# a million sessions walked through by the API while traffic goes on.
# No hugepages, no kernel side. shuntd's worker is on one core, the generator with everything else
# on the other.
#
# usage: bench/two-process.sh [--core N] [--main-core N] [--seconds S] [--edits N] [--edit-seconds S] [memif|vhost|idle|walk|changes ...]
#
# BIN is where shuntd, shunt and shunt-pktgen are (default: target/release). With ROWS=FILE each figure is
# appended to FILE, a line of JSON each.
set -euo pipefail
cd "$(dirname "$0")/.."

core=1 main_core=0 edit_number=10000 edit_seconds=90 seconds=3 what=()
while [ $# -gt 0 ]; do
    case $1 in
        --core) core=$2 && shift ;;
        --main-core) main_core=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --edits) edit_number=$2 && shift ;;
        --edit-seconds) edit_seconds=$2 && shift ;;
        memif|vhost|idle|walk|changes) what+=("$1") ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2 ;;
    esac
    shift
done
[ ${#what[@]} -gt 0 ] || what=(memif vhost idle walk changes)
bin=${BIN:-target/release}
for program in shuntd shunt shunt-pktgen; do
    [ -x "$bin/$program" ] || {
        echo "$bin/$program is missing: cargo build --release -p shuntd -p shunt-cli -p shunt-bench" >&2
        exit 2
    }
done

# This script and what it calls leave the worker's core alone.
taskset -cp "$main_core" $$ >/dev/null
work=$(mktemp -d /tmp/shunt-two-process.XXXXXX)
pid=
cleanup() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; }
    rm -rf "$work" "$session_file"
}
# Each director begins without sessions.
session_file=/dev/shm/shunt-two-process-$$.sessions
trap cleanup EXIT
trap 'exit 130' INT TERM

vip=10.0.0.100
generator_mac=02:00:00:00:00:02

# Starts a director: device, idle.
director() {
    local n
    rm -f "$session_file"
    {
        cat <<END
[daemon]
socket = "$work/shunt.sock"
name = "bench$$"
[dpdk]
hugepages = "off"
[workers]
cores = [$core]
control_core = $main_core
idle = "$2"
[limits]
sessions = 2_000_000
[sessions]
file = "$session_file"
[[port]]
name = "p0"
device = "$1"
mirror = "none"
addresses = ["192.168.1.1/24"]
[[neighbour]]
address = "192.168.1.254"
mac = "$generator_mac"
port = "p0"
[[route]]
prefix = "0.0.0.0/0"
via = "192.168.1.254"
port = "p0"
END
        for n in 11 12 13 14; do
            printf '[[neighbour]]\naddress = "192.168.1.%d"\nmac = "%s"\nport = "p0"\n' $n $generator_mac
        done
        local port=80 mode protocol
        # A service for each mode and protocol, told apart by the port.
        for mode in dr tun nat fullnat; do
            for protocol in tcp udp; do
                cat <<END
[[service]]
protocol = "$protocol"
vip = "$vip:$port"
mode = "$mode"
scheduler = "rr"
announce = "worker"
END
                [ $mode != fullnat ] || printf 'local_addresses = [%s]\n' \
                    "$(for n in $(seq 100 115); do printf '"192.168.1.%d", ' "$n"; done)"
                # Connections of the benchmark are forgotten soon, so that the table does not fill.
                printf '[service.timeouts]\ntcp_time_wait = "1s"\ntcp_syn_recv = "1s"\ntcp_syn_sent = "1s"\n'
                for n in 11 12 13 14; do
                    printf '[[service.server]]\naddress = "192.168.1.%d:%d"\n' $n $port
                done
            done
            port=$((port + 1))
        done
    } >"$work/shunt.toml"
    taskset -c "$main_core,$core" "$bin/shuntd" --config "$work/shunt.toml" --log warn 2>"$work/shuntd.log" &
    pid=$!
    for _ in $(seq 300); do
        "$bin/shunt" --socket "$work/shunt.sock" status >/dev/null 2>&1 && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "shuntd did not start:" >&2
    cat "$work/shuntd.log" >&2
    exit 1
}

# A director whose memif's other end has gone may have crashed: DPDK's driver takes the memory away
# under a worker that is looking at it.
stop() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
    rm -f "$work"/*.sock
}

# A fresh director, and the generator as clients and servers at once: the director's device, its own,
# mode, further arguments. Leaves its report in JSON.
generate() {
    local theirs=$1
    shift
    director "$theirs" busy
    generator "$@" >"$work/report"
    stop
}

# The generator: device, mode, further arguments.
generator() {
    local device=$1 mode=$2 port gateway=()
    shift 2
    case $mode in
        dr) port=80 gateway=(--gateway $generator_mac) ;;
        tun) port=81 gateway=(--gateway $generator_mac) ;;
        nat) port=82 ;;
        fullnat) port=83 ;;
    esac
    taskset -c "$main_core,$core" "$bin/shunt-pktgen" --core "$main_core" --main-core "$core" --device "$device" --vip "$vip:$port" \
        --server 192.168.1.11 --server 192.168.1.12 --server 192.168.1.13 --server 192.168.1.14 \
        --address 192.168.1.254 --mac $generator_mac "${gateway[@]}" --json "$@"
}

# Prints a figure and keeps it: id, name, unit, expression over the generator's report r, reference (a
# format string of the same). A report without the figure is an error.
figure() {
    python3 - "$work/report" "${ROWS:-}" "$@" <<'END'
import json, sys
path, rows, id_, name, unit, value, reference = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    r = json.load(file)
row = {"id": id_, "name": name, "value": eval(value), "unit": unit, "reference": eval("f" + repr(reference))}
print(f"{row['id']:<28} {row['value']:>10.3f} {unit:<14} {name}: {row['reference']}")
if rows:
    with open(rows, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
END
}

# All modes over a device: short name, the director's device, the generator's.
measure() {
    local name=$1 devices=("$2" "$3") mode seen
    for mode in dr tun nat fullnat; do
        generate "${devices[@]}" $mode --protocol udp --flows 10000 --window 200 --seconds "$seconds"
        seen='r["mpps_through_director"]'
        # What does not pass the director is not its work.
        case $mode in dr|tun) seen='r["arrived_at_servers"] / r["seconds"] / 1e6' ;; esac
        figure "two.$name.$mode.udp" "$name, $mode, UDP, 10000 flows, there and back, 200 on their way" 'Mpps forwarded' "$seen" \
            'lost {r["lost"]} of {r["sent"]}, round trip median {r["us_round_trip"]["median"]} us p99 {r["us_round_trip"]["p99"]} us'
    done
    for mode in nat fullnat; do
        generate "${devices[@]}" $mode --protocol tcp --flows 10000 --rate 100000 --seconds "$seconds"
        figure "two.$name.$mode.latency" "$name, $mode, established TCP, 10000 flows, 100000 packets a second" \
            'us round trip' 'r["us_round_trip"]["median"]' \
            'p99 {r["us_round_trip"]["p99"]} max {r["us_round_trip"]["max"]}, lost {r["lost"]} of {r["sent"]}'
    done
    generate "${devices[@]}" fullnat --protocol tcp --load connections --flows 500000 --window 200 --seconds "$seconds"
    figure "two.$name.connections" "$name, fullnat, whole TCP connections, 200 at a time" \
        'thousand/s' 'r["connections_per_second"] / 1e3' \
        'given up {r["connections_given_up"]}, resets {r["resets"]}, handshake median {r["us_handshake"]["median"]} us'
    generate "${devices[@]}" fullnat --protocol tcp --load syn --flows 2000000 --seconds "$seconds"
    figure "two.$name.syn" "$name, fullnat, flood of new SYNs" \
        'million SYN/s' '(r["syns"] - r["not_taken_by_device"]) / r["seconds"] / 1e6' '{r["syn_acks"]} answered, {r["not_taken_by_device"]} more not taken by the device'
}

# CPU time of the worker, nanoseconds.
worker_time() {
    local comm
    comm=$(grep -l '^worker-0$' /proc/"$pid"/task/*/comm)
    cut -d' ' -f1 "${comm%comm}schedstat"
}

# P11: an idle worker with a link and a thousand sessions, and the first packet after a pause.
idle() {
    local ours="net_memif0,role=server,id=0,socket=$work/memif.sock,socket-abstract=no" before after quiet
    local theirs="net_memif0,role=client,id=0,socket=$work/memif.sock,socket-abstract=no"
    director "$ours" adaptive
    generator "$theirs" fullnat --protocol tcp --flows 1000 --load probe --pause 12000 --seconds 12 >"$work/report" &
    quiet=$!
    until [ "$(sessions)" -ge 1000 ]; do
        kill -0 $quiet || return 1
        sleep 0.2
    done
    sleep 1
    before=$(worker_time)
    sleep 5
    after=$(worker_time)
    wait $quiet
    echo "{\"percent\": $(awk -v n=$((after - before)) 'BEGIN { printf "%.3f", n / 5e9 * 100 }')}" >"$work/report"
    figure P11.cpu "CPU time of an idle worker, memif" '% of a core' 'r["percent"]' 'over 5 s, link up, 1000 sessions'
    stop
    director "$ours" adaptive
    generator "$theirs" fullnat --protocol udp --flows 1 --no-echo --load probe --pause 50 --seconds 10 >"$work/report"
    figure P11.delay "first packet after 50 ms of idle, client to server, 99th percentile, less the median of packets at once" 'us' \
        'r["us_first_after_pause"]["p99"] - r["us_at_once"]["median"]' \
        '{r["probes"]} times: median {r["us_first_after_pause"]["median"]} max {r["us_first_after_pause"]["max"]}; at once: median {r["us_at_once"]["median"]} p99 {r["us_at_once"]["p99"]}'
    stop
}

# Live sessions.
sessions() {
    curl -s --unix-socket "$work/shunt.sock" http://shunt/metrics |
        awk '/^shunt_worker_sessions\{/ { n += $2 } END { print n + 0 }'
}

# Packets of the generator's that were forwarded in the last second, and those that the worker lost, so far.
forwarded() {
    "$bin/shunt" --socket "$work/shunt.sock" --json counters |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["total"]["counters"]["forwarded"])'
}

# Packets forwarded a second while a command runs.
while_it() {
    local before began
    before=$(forwarded)
    began=$(date +%s.%N)
    "$@" >"$work/walked"
    awk -v n=$(($(forwarded) - before)) -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.3f %.0f", b - a, n / (b - a) }'
}

# A million sessions, walked through page by page and counted, while all of them have traffic.
walk() {
    local ours="net_memif0,role=server,id=0,socket=$work/memif.sock,socket-abstract=no" traffic alone counting listing
    local theirs="net_memif0,role=client,id=0,socket=$work/memif.sock,socket-abstract=no"
    director "$ours" busy
    generator "$theirs" fullnat --protocol udp --flows 1000000 --rate 200000 --no-echo --seconds 45 >"$work/report" &
    traffic=$!
    until [ "$(sessions)" -ge 1000000 ]; do
        kill -0 $traffic || return 1
        sleep 0.2
    done
    alone=$(while_it sleep 5)
    counting=$(while_it "$bin/shunt" --socket "$work/shunt.sock" sessions --count)
    local counted
    counted=$(cat "$work/walked")
    listing=$(while_it "$bin/shunt" --socket "$work/shunt.sock" --json sessions --limit 0)
    local listed
    listed=$(grep -c '"client"' "$work/walked")
    wait $traffic
    figure walk.count "sessions counted by the API, FULLNAT, 1 million with traffic" s "${counting% *}" \
        "$counted counted; forwarded a second: ${alone#* } without, ${counting#* } meanwhile"
    figure walk.list "sessions listed by the API, the same" s "${listing% *}" \
        "$listed listed; forwarded a second: ${alone#* } without, ${listing#* } meanwhile; lost of the whole run {r['lost']} of {r['sent']}"
    stop
}

# How often the kernel took the worker off its core, and for how many nanoseconds in all.
taken() {
    local task
    task=$(dirname "$(grep -lx worker-0 "/proc/$pid/task/"*/comm)")
    awk '/^nonvoluntary_ctxt_switches/ { print $2 }' "$task/status"
    awk '{ print $2 }' "$task/schedstat"
}

# Ten thousand random changes of the configuration while packets come as fast as they are forwarded.
changes() {
    local ours="net_memif0,role=server,id=0,socket=$work/memif.sock,socket-abstract=no" traffic edits pauses before after
    local theirs="net_memif0,role=client,id=0,socket=$work/memif.sock,socket-abstract=no"
    director "$ours" busy
    generator "$theirs" fullnat --protocol udp --flows 10000 --window 200 --seconds "$edit_seconds" >"$work/report" &
    traffic=$!
    until [ "$(sessions)" -ge 10000 ]; do
        kill -0 $traffic || return 1
        sleep 0.2
    done
    mapfile -t before < <(taken)
    taskset -c "$main_core" bench/edits.py "$work/shunt.sock" "$vip:83" "$edit_number" >"$work/edits"
    mapfile -t after < <(taken)
    # Else some of the changes had no packets to lose.
    kill -0 $traffic || { echo "the changes took longer than the traffic: --edit-seconds N" >&2; return 1; }
    wait $traffic
    edits=$(cat "$work/edits")
    figure changes.lost "packets lost while the configuration changed, FULLNAT, UDP, 10000 flows" packets 'r["lost"]' \
        "of {r['sent']}, {r['mpps_through_director']:.3f} Mpps; $(field "$edits" '{edits} changes, {edits_per_second:.0f} a second, {generations} snapshots, all acknowledged: {acknowledged}; dropped by the director: {drops}')"
    stop
    # What the kernel and the machine take of any thread on that core is in the iterations' time, too.
    # shellcheck disable=SC2046 # words
    pauses=$(taskset -c "$core" bench/pauses.py $(field "$edits" '{seconds:.1f} {long_above_us}'))
    figure changes.iteration "longest iteration meanwhile, by the clock, rounded up to a power of two" us \
        "$(field "$edits" '{us_longest_below}')" \
        "$(field "$edits" '99.99 % below {us_p99.99_below:.0f}, 99.9 % below {us_p99.9_below:.0f} of {busy_iterations}, {long} longer than {long_above_us:.0f}'); the kernel took the worker off its core $((after[0] - before[0])) times, for $(((after[1] - before[1]) / 1000)) us in all$(field "$pauses" '; of a loop that does nothing, for as long on the same core, {count}, the longest {us_longest:.0f}')"
}

# Fields of an object of JSON in a format string. Braces of what is put in are doubled for `figure`.
field() {
    python3 -c 'import json, re, sys
r = json.loads(sys.argv[1])
def one(match):
    name, _, form = match[1].partition(":")
    return format(r[name], form) if form else str(r[name]).replace("{", "{{").replace("}", "}}").replace("\"", "")
print(re.sub(r"\{([^}]+)\}", one, sys.argv[2]))' "$@"
}

for w in "${what[@]}"; do
    case $w in
        walk) walk ;;
        changes) changes ;;
        memif) measure memif "net_memif0,role=server,id=0,socket=$work/memif.sock,socket-abstract=no" \
            "net_memif0,role=client,id=0,socket=$work/memif.sock,socket-abstract=no" ;;
        vhost) measure vhost "net_vhost0,iface=$work/vhost.sock" \
            "net_virtio_user0,path=$work/vhost.sock,mac=$generator_mac" ;;
        idle) idle ;;
    esac
done
