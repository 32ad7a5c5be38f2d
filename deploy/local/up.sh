#!/usr/bin/env bash
# A RabbitMQ broker and an S3 store (Ceph) on this machine, for trying Gleaner with many workers.
#
#     deploy/local/up.sh DIR       starts both; what they write stays below DIR
#     . DIR/env                    tells Gleaner where they are
#     deploy/local/down.sh DIR     stops both
#
# Debian, as root: apt-get install rabbitmq-server radosgw ceph-mon ceph-osd curl
# Both listen on the loopback interface only, with passwords that everyone knows: for trials only.
# The store keeps its objects in memory.
set -euo pipefail

usage="usage: deploy/local/up.sh DIR [BROKER_PORT [STORE_PORT]]"
directory=$(realpath -m "${1:?$usage}")
broker_port=${2:-5673}
store_port=${3:-7481}
broker=$directory/broker
store=$directory/store
seconds_max=120

main() {
    for program in rabbitmq-server radosgw ceph-mon ceph-osd curl; do
        command -v "$program" >/dev/null || {
            echo "$program is missing: apt-get install rabbitmq-server radosgw ceph-mon ceph-osd curl" >&2
            exit 1
        }
    done
    if [ -e "$directory/env" ]; then
        echo "$directory is in use; stop it first: deploy/local/down.sh $directory" >&2
        exit 1
    fi
    mkdir -p "$broker" "$store"/{mon,osd,run,log}
    start_broker
    start_store
    cat >"$directory/env" <<END
export GLEANER_QUEUE=amqp://guest:guest@127.0.0.1:$broker_port
export AWS_ENDPOINT_URL=http://127.0.0.1:$store_port
export AWS_ACCESS_KEY_ID=trial AWS_SECRET_ACCESS_KEY=trial-secret AWS_REGION=us-east-1
END
    . "$directory/env"
    create_bucket gleaner
    echo "ready: . $directory/env"
}

# Polls until a command succeeds.
await() {
    local what=$1 deadline=$((SECONDS + seconds_max))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            echo "$what did not start within $seconds_max s; see the logs in $directory" >&2
            exit 1
        fi
        sleep 0.5
    done
}

start_broker() {
    cat >"$broker/rabbitmq.conf" <<END
listeners.tcp.1 = 127.0.0.1:$broker_port
END
    echo '[].' >"$broker/plugins"
    cat >"$broker/settings" <<END
export ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME=gleaner$broker_port@localhost
export RABBITMQ_MNESIA_BASE=$broker/db
export RABBITMQ_LOG_BASE=$broker/log
export RABBITMQ_CONFIG_FILE=$broker/rabbitmq
export RABBITMQ_ENABLED_PLUGINS_FILE=$broker/plugins
export RABBITMQ_DIST_PORT=$((broker_port + 20000))
export RABBITMQ_PID_FILE=$broker/pid
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
END
    chown -R rabbitmq "$broker" && chmod o+x "$directory"
    (. "$broker/settings" && rabbitmq-server -detached)
    await "the broker" rabbitmqctl -q -n "gleaner$broker_port@localhost" await_startup --timeout 5
}

start_store() {
    local osd_id monitor_port=$((store_port + 1)) cluster
    cluster=$(cat /proc/sys/kernel/random/uuid)
    osd_id=$(cat /proc/sys/kernel/random/uuid)
    cat >"$store/ceph.conf" <<END
[global]
fsid = $cluster
mon host = [v2:127.0.0.1:$monitor_port]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $store/keyring
run dir = $store/run
admin socket = $store/run/\$name.asok
pid file = $store/run/\$name.pid
log file = $store/log/\$name.log
mon data = $store/mon
mon initial members = a
mon allow pool size one = true
mon data avail crit = 0
osd data = $store/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw frontends = beast endpoint=127.0.0.1:$store_port
rgw dynamic resharding = false
rgw run sync thread = false
END
    export CEPH_CONF=$store/ceph.conf
    local keys=$store/keyring
    ceph-authtool --create-keyring "$keys" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    ceph-authtool "$keys" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool "$keys" --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
    monmaptool --create --clobber --fsid "$cluster" --addv a "[v2:127.0.0.1:$monitor_port]" "$store/monmap" >/dev/null
    ceph-mon --mkfs -i a --monmap "$store/monmap" --keyring "$keys"
    ceph-mon -i a
    await "the store's monitor" timeout 5 ceph mon stat
    ceph -s >/dev/null
    ceph osd new "$osd_id" >/dev/null
    ceph auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' >>"$keys"
    ceph-osd -i 0 --mkfs --osd-uuid "$osd_id" 2>/dev/null
    ceph osd crush add osd.0 1.0 root=default host=localhost >/dev/null 2>&1
    ceph-osd -i 0 >/dev/null 2>&1
    await "the store's disk" sh -c "ceph osd stat | grep -q '1 up'"
    radosgw -n client.rgw -k "$keys"
    await "the store's gateway" curl -sf "http://127.0.0.1:$store_port/"
    radosgw-admin user create --uid=trial --display-name=trial --access-key=trial --secret=trial-secret >/dev/null
}

create_bucket() {
    curl -sf -X PUT --aws-sigv4 aws:amz:us-east-1:s3 -u "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
        -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$AWS_ENDPOINT_URL/$1"
}

main
