#!/usr/bin/env bash
# Onboards a tenant; run on the head node, or where a tunnel leads to its dashboard.
#
#   cluster/nodes/onboard.sh TENANT TOML [OPTION OF adapterdistill onboard]...
#
# TOML is a path on the owner's node. The job's driver runs there, too, because Ray Train keeps its
# controller, with a run's metrics and metadata, beside the driver.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 2 ] || fail "usage: onboard.sh TENANT TOML [OPTION OF adapterdistill onboard]..."
tenant="$1" toml="$2"
shift 2
require_tenant "$tenant"
# A shell on the owner's node runs the job's command, so characters that it interprets are refused.
for argument in "$toml" "$@"; do
    [[ "$argument" =~ ^[A-Za-z0-9._/=-]+$ ]] || fail "expected letters, digits and . _ / = - only: $argument"
done
require_token

# The same small share of the resource that a data owner takes: many drivers fit beside it.
exec ray job submit --address=http://127.0.0.1:8265 \
    --entrypoint-resources="{\"owner:$tenant\": 0.001}" -- \
    python -m adapterdistill onboard --config "$toml" "$@"
