#!/usr/bin/env bash
# A data owner's node. It alone offers the resource owner:TENANT, to which the tenant's run is pinned
# (`[placement]` in its TOML). Rows, workspace and checkpoints are on this node's disk.
#
#   cluster/nodes/owner.sh TENANT HEAD_ADDRESS OWN_ADDRESS [OPTION OF ray start]...
#
# Ray does not check who offers a resource: any node with the cluster's token and a certificate may
# offer it. So all nodes of a cluster must trust each other; see cluster/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 3 ] || fail "usage: owner.sh TENANT HEAD_ADDRESS OWN_ADDRESS [OPTION OF ray start]..."
tenant="$1" head="$2" address="$3"
shift 3
require_tenant "$tenant"
require_address "$head"
require_address "$address"
require_token
require_tls

exec ray start --address="$head:6379" --node-ip-address="$address" \
    --resources="{\"owner:$tenant\": 1}" "${node_options[@]}" "$@"
