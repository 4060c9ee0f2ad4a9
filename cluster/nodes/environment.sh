#!/usr/bin/env bash
# Settings that every Ray process of a cluster needs before it starts; other scripts source this file.
#
# Ray uses a token only if ~/.ray/auth_token happens to exist, so token and TLS are set here
# explicitly. The token does not encrypt: without TLS, whoever can read the network's traffic has it.
# TLS covers Ray's gRPC but not its dashboard, which therefore stays on loopback.

ADAPTERDISTILL_CLUSTER="${ADAPTERDISTILL_CLUSTER:-$HOME/.adapterdistill/cluster}"

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$ADAPTERDISTILL_CLUSTER/token"
export RAY_USAGE_STATS_ENABLED=0
# A replica answers on the thread that reads its requests: 6% less of a core.
export RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0

# What Ray and its workers write is this user's alone.
umask 077

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# A secret in a file that others may read is no secret.
require_private() {
    [ -s "$1" ] || fail "$1 is missing: $2"
    [ -z "$(find -L "$1" -perm /077)" ] ||
        fail "$1: others may read it (mode $(stat -Lc %04a "$1")); chmod 600 it and make another"
}

# Serve answers twice as many requests behind HAProxy. Ray reads this when it starts. By default, Ray
# would show HAProxy's statistics on all interfaces: here they are on sockets in this user's folder.
haproxy_settings="$(python -m adapterdistill.serve.haproxy)" || fail "needs a \`python\` that has the package adapterdistill"
eval "$haproxy_settings"

require_token() {
    require_private "$RAY_AUTH_TOKEN_PATH" "copy it from the head node, or make it with cluster/nodes/certificates.sh"
}

# Where this machine has a node's certificate, every connection of Ray uses it: those of its nodes, and
# those of `ray` and `serve` in a shell.
export RAY_USE_TLS=0
if [ -e "$ADAPTERDISTILL_CLUSTER/node.crt" ]; then export RAY_USE_TLS=1; fi
export RAY_TLS_CA_CERT="$ADAPTERDISTILL_CLUSTER/ca.crt"
export RAY_TLS_SERVER_CERT="$ADAPTERDISTILL_CLUSTER/node.crt"
export RAY_TLS_SERVER_KEY="$ADAPTERDISTILL_CLUSTER/node.key"

# Between machines there is nothing without TLS.
require_tls() {
    local hint="make it with cluster/nodes/certificates.sh"
    [ -s "$RAY_TLS_CA_CERT" ] || fail "$RAY_TLS_CA_CERT is missing: $hint"
    [ -s "$RAY_TLS_SERVER_CERT" ] || fail "$RAY_TLS_SERVER_CERT is missing: $hint"
    require_private "$RAY_TLS_SERVER_KEY" "$hint"
}

# Names and addresses become part of commands and of JSON, so only these characters are allowed.
require_tenant() {
    [[ "$1" =~ ^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$ ]] || fail "not the name of a tenant: $1"
}

require_address() {
    [[ "$1" =~ ^[A-Za-z0-9][A-Za-z0-9.:-]*$ ]] || fail "not an address: $1"
}

# One port for each process, so that a firewall can name them. Ray takes free ones otherwise.
node_ports=(
    --node-manager-port=6380
    --object-manager-port=6381
    --runtime-env-agent-port=6382
    --dashboard-agent-grpc-port=6383
    --metrics-export-port=6384
    --dashboard-agent-listen-port=52365    # Ray's default, which `serve deploy` uses
    # A worker process takes one; 200 are many times what a node of 16 cores runs at once.
    --min-worker-port=10100
    --max-worker-port=10299
)
# Ray opens its folders to every user of the machine, so they are in one that `serve.haproxy` has made
# this user's alone. Its path is short, because paths of sockets are.
ray_folder="/tmp/ad-$UID/ray"
# Nothing large passes through the object store, because adapters are below 1 MB and rows stay in
# their owner's process. By default it would take 30% of the memory.
# shellcheck disable=SC2034 # for those that source this
node_options=(--object-store-memory=200000000 --disable-usage-stats "--temp-dir=$ray_folder" "${node_ports[@]}")
