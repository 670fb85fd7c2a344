#!/bin/sh
# Instructions a packet of the established path, without the driver, for every mode: budget P1.
# Counts with callgrind, so that the figures are the same on any machine; exits non-zero where
# the `must` of P1 is missed for IPv4. IPv6 and replies are reported.
#
# usage: bench/instructions.sh [FLOWS ...]      (default: 1000 100000)
set -eu
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 2; }
target=${CARGO_TARGET_DIR:-target}
# One place for all builds with these flags: others keep theirs. Valgrind knows no AVX-512.
export CARGO_TARGET_DIR="$target/instructions" RUSTFLAGS="-C target-cpu=x86-64-v3"
cargo build --quiet --release -p shunt-bench --bin established
program=$CARGO_TARGET_DIR/release/established

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# Prints the instructions a packet of one case; `established` takes the arguments.
count() {
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --collect-atstart=no \
        --toggle-collect='*measured_poll*' \
        --toggle-collect='*rx_left_out*' --toggle-collect='*tx_left_out*' \
        "$program" "$@" >"$work/said" 2>"$work/err" || { cat "$work/err" >&2; exit 2; }
    packets=$(sed -n 's/^packets \([0-9]*\) .*/\1/p' "$work/said")
    awk -v packets="$packets" '/^(totals|summary):/ { n = $2 } END { printf "%.0f", n / packets }' "$work/out"
}

row() { printf '%-8s %-4s %-7s %9s %12s %6s %6s  %s\n' "$@"; }

row mode ip packets flows instructions must aim ''
for flows in ${*:-1000 100000}; do
    for budget in dr:260:130 tun:290:150 nat:300:155 fullnat:320:160; do
        mode=${budget%%:*} rest=${budget#*:}
        must=${rest%:*} aim=${rest#*:}
        for direction in request reply; do
            case $mode-$direction in dr-reply|tun-reply) continue ;; esac
            n=$(count --mode "$mode" --flows "$flows" --direction "$direction")
            verdict=missed
            [ "$n" -gt "$must" ] || verdict=ok
            [ "$verdict" = ok ] || failed=1
            row "$mode" 4 "$direction" "$flows" "$n" "$must" "$aim" "$verdict"
            n=$(count --mode "$mode" --flows "$flows" --direction "$direction" --ipv6)
            row "$mode" 6 "$direction" "$flows" "$n" - - ''
        done
    done
done
exit $failed
