#!/usr/bin/env bash
# One machine: a Ray cluster on loopback that offers the resource owner:TENANT for each tenant.
#
#   cluster/single/start.sh TENANT...
#
# Runs until Ctrl-C or SIGTERM. The token is made once; `source cluster/nodes/environment.sh` before
# `adapterdistill submit` and `serve deploy` in other shells.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../nodes/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../nodes/environment.sh"

[ "$#" -ge 1 ] || fail "usage: start.sh TENANT..."
resources=""
for tenant in "$@"; do
    require_tenant "$tenant"
    resources+="${resources:+, }\"owner:$tenant\": 1"
done

if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    mkdir -p "$ADAPTERDISTILL_CLUSTER"
    openssl rand -hex 32 > "$RAY_AUTH_TOKEN_PATH"
fi
require_token
# Ray listens on loopback only, and the token keeps other users of the machine out. Without this
# setting, Ray on Linux replaces 127.0.0.1 by the machine's address and listens on all interfaces.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0

exec ray start --head --block --node-ip-address=127.0.0.1 --port=6379 \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port=8265 \
    --resources="{$resources}" "${node_options[@]}"
