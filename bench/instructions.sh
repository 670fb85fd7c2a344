#!/bin/sh
# Instructions a packet of the established path, without the driver, for every mode: budget P1.
# Counted by callgrind, so that the figures are the same on any machine; exits non-zero where the
# `must` of P1 is missed for IPv4. Replies and IPv6 are counted for the first number of flows.
#
# usage: bench/instructions.sh [FLOWS ...]       (default: 1000 100000; 2 to 5 minutes)
#        bench/instructions.sh --profile MODE    where the instructions of one mode go
set -eu
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 2; }
# A folder of its own: other builds keep theirs, which these flags would undo. Valgrind knows no
# AVX-512, hence the processor.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/instructions"
export RUSTFLAGS="-C target-cpu=x86-64-v3"
cargo build --quiet --release -p shunt-bench --bin established
program=$CARGO_TARGET_DIR/release/established

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs one case under callgrind; `established` takes the arguments.
count() {
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --collect-atstart=no \
        --toggle-collect='*measured_poll*' \
        --toggle-collect='*rx_left_out*' --toggle-collect='*tx_left_out*' \
        "$program" "$@" >"$work/said" 2>"$work/err" || { cat "$work/err" >&2; exit 2; }
}

# Instructions a packet of the last case.
result() {
    packets=$(sed -n 's/^packets \([0-9]*\) .*/\1/p' "$work/said")
    awk -v packets="$packets" '/^(totals|summary):/ { n = $2 } END { printf "%.0f", n / packets }' "$work/out"
}

row() { printf '%-8s %-4s %-8s %9s %13s %6s %6s  %s\n' "$@"; }

if [ "${1:-}" = --profile ]; then
    count --mode "${2:?a mode: dr, tun, nat or fullnat}"
    callgrind_annotate --auto=no --threshold=95 "$work/out"
    echo "$(result) instructions a packet, $(sed 's/ flows.*//' "$work/said")"
    exit 0
fi

failed=0
first=yes
row mode ip packets flows instructions must aim ''
for flows in ${*:-1000 100000}; do
    for budget in dr:260:130 tun:290:150 nat:300:155 fullnat:320:160; do
        mode=${budget%%:*} rest=${budget#*:}
        must=${rest%:*} aim=${rest#*:}
        for direction in request reply; do
            case $first-$mode-$direction in no-*-reply|*-dr-reply|*-tun-reply) continue ;; esac
            count --mode "$mode" --flows "$flows" --direction "$direction"
            n=$(result)
            verdict=missed
            if [ "$n" -le "$must" ]; then verdict=ok; else failed=1; fi
            row "$mode" 4 "$direction" "$flows" "$n" "$must" "$aim" "$verdict"
            [ $first = yes ] || continue
            count --mode "$mode" --flows "$flows" --direction "$direction" --ipv6
            row "$mode" 6 "$direction" "$flows" "$(result)" - - ''
        done
    done
    first=no
done
exit $failed
