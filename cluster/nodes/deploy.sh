#!/usr/bin/env bash
# Deploys ~/.adapterdistill/cluster/serve.yaml on this head node, as soon as it takes deployments. Does
# nothing on other nodes, and where there is no such file: cluster/systemd calls it after every start.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -eq 0 ] || fail "usage: deploy.sh"
config="$ADAPTERDISTILL_CLUSTER/serve.yaml"
grep -q "^head.sh " "$ADAPTERDISTILL_CLUSTER/role" && [ -e "$config" ] || exit 0
require_token
# The dashboard needs some seconds, and more on a busy machine.
for _ in {1..60}; do
    if serve deploy "$config"; then exit 0; fi
    sleep 2
done
fail "$config could not be deployed within two minutes"
