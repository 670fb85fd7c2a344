#!/bin/bash
# Compares io-forwarding through the `dpdk` crate with testpmd's: two net_null ports, one worker,
# bursts of 32, the same packet pool, no huge pages. Rounds are interleaved; in each, testpmd, ours
# linked dynamically (as Debian's testpmd is), and ours linked statically (as shuntd is) run one
# after the other on the same core.
#
# The rate is packets per second of the worker's own CPU time, so that a core that is shared with
# other work shows the same figure as a quiet one, more or less.
#
# usage: bench/io-forward.sh [ROUNDS [SECONDS [CORE]]]     (default 7 rounds of 2 s on core 1)
set -euo pipefail

rounds=${1:-7} seconds=${2:-2} core=${3:-1}
main_core=$((core == 0 ? 1 : 0))
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
ports=("net_null0,size=64,copy=0" "net_null1,size=64,copy=0")

cargo build -q --release -p shunt-bench --bin io_forward
cargo build -q --release -p shunt-bench --bin io_forward --features dynamic \
    --target-dir "$target/dynamic"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints testpmd's rate, Mpps.
testpmd() {
    mkfifo "$work/in"
    # Its output is a file, which it would write only when it ends.
    stdbuf -oL dpdk-testpmd -l "$main_core,$core" --main-lcore "$main_core" --no-huge --no-shconf --no-pci \
        --no-telemetry -m 256 --iova-mode=va --file-prefix="io-forward-$$" \
        "${ports[@]/#/--vdev=}" -- -i --forward-mode=io --burst=32 --nb-cores=1 \
        --total-num-mbufs=16383 --mbcache=250 --rxd=1024 --txd=1024 \
        <"$work/in" >"$work/out" 2>&1 &
    local pid=$! worker nanoseconds packets
    exec 3>"$work/in"
    wait_for 'testpmd>'
    echo start >&3
    sleep "$seconds"
    echo stop >&3
    wait_for 'Done\.'
    # The worker sleeps unless it forwards, so that its CPU time so far is that of forwarding.
    worker=$(grep -l "worker-$core\$" "/proc/$pid/task/"*/comm)
    read -r nanoseconds _ <"${worker%comm}schedstat"
    echo quit >&3
    exec 3>&-
    wait "$pid"
    rm "$work/in"
    packets=$(awk '/Accumulated/ { all = 1 } all && /RX-packets/ { print $2; exit }' "$work/out")
    awk -v p="$packets" -v n="$nanoseconds" 'BEGIN { printf "%.3f\n", p / n * 1000 }'
}

# Waits until testpmd has printed this.
wait_for() {
    for _ in $(seq 300); do
        grep -q "$1" "$work/out" 2>/dev/null && return
        sleep 0.1
    done
    echo "testpmd did not say '$1':" >&2
    cat "$work/out" >&2
    exit 1
}

# Prints our rate, Mpps.
ours() {
    "$1" "${ports[@]/#/--port=}" --core "$core" --main-core "$main_core" --seconds "$seconds" |
        awk '/^CPU time:/ { print $3 }'
}

median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { m = int((NR + 1) / 2); print (NR % 2) ? v[m] : (v[m] + v[m + 1]) / 2 }'
}

printf '%-6s %10s %10s %10s   Mpps\n' round testpmd dynamic static
for round in $(seq "$rounds"); do
    t=$(testpmd)
    d=$(ours "$target/dynamic/release/io_forward")
    s=$(ours "$target/release/io_forward")
    printf '%-6s %10s %10s %10s\n' "$round" "$t" "$d" "$s"
    echo "$t" >>"$work/testpmd"
    echo "$d" >>"$work/dynamic"
    echo "$s" >>"$work/static"
done
t=$(median "$work/testpmd") d=$(median "$work/dynamic") s=$(median "$work/static")
printf '%-6s %10s %10s %10s\n' median "$t" "$d" "$s"
awk -v t="$t" -v d="$d" -v s="$s" \
    'BEGIN { printf "dynamic / testpmd: %.3f (must be 0.97)   static / dynamic: %.3f\n", d / t, s / d }'
