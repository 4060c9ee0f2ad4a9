#!/usr/bin/env bash
# The head node of a cluster of several nodes.
#
#   cluster/nodes/head.sh OWN_ADDRESS [OPTION OF ray start]...
#
# Add --block where a supervisor such as systemd runs it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 1 ] || fail "usage: head.sh OWN_ADDRESS [OPTION OF ray start]..."
address="$1"
shift
require_address "$address"
require_token
require_tls

# No CPUs: owners and replicas run on their own nodes, so that the head, whose loss ends the cluster,
# does not run out of memory. The dashboard takes jobs over plain HTTP, so it is on loopback: submit
# on this node, or through an SSH tunnel.
exec ray start --head --node-ip-address="$address" --port=6379 \
    --num-cpus=0 --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port=8265 \
    "${node_options[@]}" "$@"
