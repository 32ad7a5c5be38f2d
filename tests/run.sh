#!/usr/bin/env bash
# All tests, on real servers too.
#
#     tests/run.sh              everything
#     tests/run.sh crash::      arguments go to `cargo test`: here, tests of one file
#
# RabbitMQ, Ceph (an S3 server), Chromium and kubectl (which Debian 12 has too old) are installed first where
# that is possible: on Debian, as root or with a sudo that asks for no password. Tests start and stop
# servers by themselves, on free ports of the loopback interface. Where they are missing, the tests that need them say SKIPPED and why; with
# GLEANER_REQUIRE_SERVERS=1 they fail instead. Tests
# over Azure's emulator run where it is installed already (npm install --global azurite, or
# GLEANER_AZURITE=.../azurite-blob), and are never required.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A package_of=(
    [rabbitmq-server]=rabbitmq-server [radosgw]=radosgw [ceph-mon]=ceph-mon [ceph-osd]=ceph-osd
    [openssl]=openssl [curl]=curl [faketime]=faketime [kubectl]=kubernetes-client
    [chromium]=chromium
)

install_servers() {
    local program missing=() as_root=()
    for program in "${!package_of[@]}"; do
        [ -n "$(PATH=$PATH:/usr/sbin command -v "$program")" ] || missing+=("${package_of[$program]}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || missing_servers "not root, and sudo asks for a password" || return 0
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || missing_servers "there is no apt-get" || return 0
    # No start by the package: tests start their own.
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -q -y --no-install-recommends "${missing[@]}" ||
        missing_servers "apt-get failed" || return 0
}

missing_servers() {
    echo "tests on real servers will be SKIPPED: $1; install ${package_of[*]}" >&2
    return 1
}

install_servers
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --locked -- "$@" 2>&1 | tee "$log" || status=$?
n_skipped=$(grep -c '^SKIPPED' "$log" || true)
if [ "$n_skipped" -gt 0 ]; then
    echo "==== $n_skipped tests were SKIPPED:" >&2
    grep '^SKIPPED' "$log" | sort | uniq -c >&2
fi
exit "$status"
