#!/usr/bin/env bash
# Stops what deploy/local/up.sh DIR started. Logs stay below DIR.
set -euo pipefail

directory=$(realpath -m "${1:?usage: deploy/local/down.sh DIR}")

if [ -e "$directory/broker/settings" ]; then
    (. "$directory/broker/settings" && rabbitmqctl -q -n "$RABBITMQ_NODENAME" stop) || true
fi
for pid_file in "$directory"/store/run/*.pid; do
    [ ! -e "$pid_file" ] || kill "$(cat "$pid_file")" 2>/dev/null || true
done
rm -rf "$directory/env" "$directory/broker/db" "$directory/store"
