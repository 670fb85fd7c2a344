# shellcheck shell=bash
# The Debian packages that building, running, labs and tests need: the one list, and how they are
# installed. Sourced by scripts/demo, scripts/test, the labs and the Dockerfile.

# shellcheck disable=SC2034 # used by those who source this
packages_build=(
    build-essential pkg-config clang-14 libclang-14-dev
    libdpdk-dev
)
packages_lab=(
    iproute2 nftables ethtool iputils-ping procps curl ca-certificates
    nginx-light python3 clang-14 linux-libc-dev
)
packages_test=(
    dpdk dpdk-dev tcpdump python3-scapy debootstrap valgrind keepalived prometheus man-db
)
# What shuntd needs where it only runs: libraries of the statically linked DPDK drivers
# (dpdk-sys/build/drivers.rs), and `ip` for whoever sets the director's addresses.
packages_runtime=(
    libnuma1 libbsd0 libpcap0.8 libxdp1 libbpf1 libibverbs1 ibverbs-providers
    iproute2
)

# Installs those of the packages that are missing. Says what it does; asks nothing.
packages_need() {
    local package missing=()
    for package; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "These packages are missing, and only root can install them: ${missing[*]}" >&2
        echo "Run: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "Installing with apt: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! packages_apt "${missing[@]}" >"$log" 2>&1; then
        # The lists of a fresh machine are empty or old.
        if ! { apt-get update && packages_apt "${missing[@]}"; } >"$log" 2>&1; then
            tail -n 30 "$log" >&2
            echo "apt could not install: ${missing[*]} (its last words are above)" >&2
            rm -f "$log"
            return 1
        fi
    fi
    rm -f "$log"
}

# Installs packages without starting the daemons among them: nginx is for the namespaces of a lab,
# not for this machine's port 80.
packages_apt() {
    local policy=/usr/sbin/policy-rc.d made='' status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" || status=$?
    [ -z "$made" ] || rm -f "$policy"
    return "$status"
}
