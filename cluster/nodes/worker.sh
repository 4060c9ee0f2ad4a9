#!/usr/bin/env bash
# A node that serves: it offers the resource `serving`, to which cluster/nodes/serve.yaml pins the
# replicas, and has the serving stores on its disk or mounted.
#
#   cluster/nodes/worker.sh HEAD_ADDRESS OWN_ADDRESS [OPTION OF ray start]...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 2 ] || fail "usage: worker.sh HEAD_ADDRESS OWN_ADDRESS [OPTION OF ray start]..."
head="$1" address="$2"
shift 2
require_address "$head"
require_address "$address"
require_token
require_tls

exec ray start --address="$head:6379" --node-ip-address="$address" \
    --resources='{"serving": 1}' "${node_options[@]}" "$@"
