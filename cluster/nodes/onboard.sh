#!/usr/bin/env bash
# Onboards a tenant; run on the head node, or where a tunnel leads to its dashboard.
#
#   cluster/nodes/onboard.sh TENANT TOML [OPTION OF adapterdistill onboard]...
#
# TOML is a path on the owner's node: the job's driver runs there too, for Ray Train keeps its
# controller beside the driver, and with it a run's metrics and metadata.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 2 ] || fail "usage: onboard.sh TENANT TOML [OPTION OF adapterdistill onboard]..."
tenant="$1" toml="$2"
shift 2
require_tenant "$tenant"
# Ray hands the job's command to a shell on the owner's node: no character that means something there.
for argument in "$toml" "$@"; do
    [[ "$argument" =~ ^[A-Za-z0-9._/=-]+$ ]] || fail "expected letters, digits and . _ / = - only: $argument"
done
require_token

# The same sliver that a data owner takes of its resource: any number of drivers fits beside it.
exec ray job submit --address=http://127.0.0.1:8265 \
    --entrypoint-resources="{\"owner:$tenant\": 0.001}" -- \
    python -m adapterdistill onboard --config "$toml" "$@"
