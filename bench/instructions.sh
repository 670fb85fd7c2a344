#!/bin/bash
# Instructions a packet without the driver, for every mode: budget P1 (bench/budgets.tsv), and how
# they grow. Counted by callgrind, so that the figures are the same on any machine; exits non-zero
# where a `must` is missed. Replies and IPv6 are counted for the first number of flows.
#
# usage: bench/instructions.sh [FLOWS ...]       (default: 1000 100000; 2 to 5 minutes)
#        bench/instructions.sh --growth          with flows, servers and services (about 5 minutes)
#        bench/instructions.sh --profile MODE    where the instructions of one mode go
#
# With ROWS=FILE in the environment each figure is appended to FILE, a line of JSON each.
set -euo pipefail
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

# Runs one case under callgrind, which looks on only when the sessions are established (an hour
# else); `established` takes the arguments. Sets n to the instructions a packet.
count() {
    rm -f "$work/in" "$work/said"
    mkfifo "$work/in"
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --instr-atstart=no --collect-atstart=no \
        --toggle-collect='*measured_poll*' \
        --toggle-collect='*rx_left_out*' --toggle-collect='*tx_left_out*' --toggle-collect='*fill_page*' \
        "$program" --wait "$@" <"$work/in" >"$work/said" 2>"$work/err" &
    local pid=$! packets
    exec 3>"$work/in"
    while kill -0 "$pid" 2>/dev/null && ! grep -q established "$work/said" 2>/dev/null; do sleep 0.1; done
    callgrind_control --instr=on "$pid" >"$work/control" 2>&1 || true
    echo >&3
    exec 3>&-
    wait "$pid" || { cat "$work/err" "$work/control" >&2; exit 2; }
    packets=$(sed -n 's/^packets \([0-9]*\) .*/\1/p' "$work/said")
    n=$(awk -v packets="$packets" '/^(totals|summary):/ { n = $2 } END { printf "%.0f", n / packets }' "$work/out")
    [ "$n" -gt 0 ] || { cat "$work/control" "$work/err" >&2; exit 2; }
}

# Prints must and aim of a figure, or two dashes. Replies and more flows have the budget of their mode.
budget() {
    local id=$1
    [[ $id != P1.*.* || $id == *.ipv6 ]] || id=P1.$(cut -d. -f2 <<<"$id")
    awk -F'\t' -v id="$id" '$1 == id { print $3, $4; found = 1 } END { if (!found) print "- -" }' bench/budgets.tsv
}

failed=0
# Prints a figure: id, value, unit, name, reference.
figure() {
    local must aim verdict=''
    read -r must aim < <(budget "$1")
    if [ "$must" != - ]; then
        verdict=$(awk -v v="$2" -v m="$must" -v a="$aim" 'BEGIN { print v <= a ? "aim" : v <= m ? "must" : "missed" }')
        [ "$verdict" != missed ] || failed=1
    fi
    printf '%-28s %8s %7s %6s %6s  %s\n' "$1" "$2" "$must" "$aim" "$verdict" "$3"
    [ -z "${ROWS:-}" ] ||
        printf '{"id":"%s","name":"%s","value":%s,"unit":"%s","reference":"%s"}\n' "$1" "$4" "$2" "$3" "$5" >>"$ROWS"
}

if [ "${1:-}" = --profile ]; then
    count --mode "${2:?a mode: dr, tun, nat or fullnat}"
    callgrind_annotate --auto=no --threshold=95 "$work/out"
    echo "$n instructions a packet, $(sed -n 's/ flows.*//p' "$work/said")"
    exit 0
fi

printf '%-28s %8s %7s %6s %6s  %s\n' figure value must aim verdict unit

# Instructions of FULLNAT with these arguments before and after, as difference or percent.
grows() {
    local id=$1 unit=$2 name=$3 open=$4 few=$5 many=$6 first
    # shellcheck disable=SC2086 # words
    count --mode fullnat $open $few
    first=$n
    # shellcheck disable=SC2086
    count --mode fullnat $open $many
    local by=$((n - first))
    [ "$unit" = "instructions more" ] || by=$(awk -v a="$first" -v b="$n" 'BEGIN { printf "%.1f", (b / a - 1) * 100 }')
    figure "$id" "$by" "$unit" "$name" "$first to $n instructions"
}

# Workers that share nothing, 1000 sessions each, and every worker's inaccessible to the others. All of
# them steer: with one worker nothing of that is done.
shards() {
    local few said='' workers by
    for workers in 2 16 128; do
        count --mode fullnat --workers "$workers" --bursts 256
        few=${few:-$n}
        said="${said:+$said, }$workers: $n"
    done
    by=$(awk -v a="$few" -v b="$n" 'BEGIN { printf "%.1f", (b / a - 1) * 100 }')
    figure G.shards "$by" '% more instructions' "FULLNAT, 2 to 128 workers" "instructions with $said"
}

if [ "${1:-}" = --growth ]; then
    most=${GROWTH_FLOWS:-1000000}
    grows G.flows '% more instructions' "FULLNAT, 1000 to $most flows" '' '--flows 1000' "--flows $most"
    for what in servers services; do
        grows "G.$what" 'instructions more' "established, 1 to 100000 $what" '' "--$what 1" "--$what 100000"
        grows "G.open.$what" '% more instructions' "first packet, 1 to 100000 $what" '--packet 1' "--$what 1" "--$what 100000"
    done
    shards
    exit $failed
fi

first=yes
for flows in ${*:-1000 100000}; do
    # P1 is a thousand sessions'; more may not cost more, and have the same budget.
    few=.$flows
    [ $first = no ] || few=
    for mode in dr tun nat fullnat; do
        for direction in request reply; do
            case $first-$mode-$direction in no-*-reply|*-dr-reply|*-tun-reply) continue ;; esac
            count --mode "$mode" --flows "$flows" --direction "$direction"
            id=P1.$mode$few
            [ $direction = request ] || id=$id.reply
            figure "$id" "$n" instructions "established, $mode, $direction, IPv4, $flows flows" callgrind
            [ $first = yes ] || continue
            count --mode "$mode" --flows "$flows" --direction "$direction" --ipv6
            figure "$id.ipv6" "$n" instructions "established, $mode, $direction, IPv6, $flows flows" callgrind
        done
    done
    first=no
done
# The same while a page of the session listing is asked for in every iteration; what fills the page is not
# a packet's.
for mode in dr tun nat fullnat; do
    count --mode "$mode" --listed
    figure "walk.$mode" "$n" instructions "established, $mode, while its sessions are listed" "callgrind, without the pages"
done
exit $failed
