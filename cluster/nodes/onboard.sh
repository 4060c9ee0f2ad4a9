#!/usr/bin/env bash
# Onboards a tenant; run on the head node, or where a tunnel leads to its dashboard. Shows the run's log
# and ends with the run's own exit code.
#
#   cluster/nodes/onboard.sh TENANT TOML [OPTION OF adapterdistill submit]...
#
# TOML is a path on the owner's node. The job's driver runs there, too, because Ray Train keeps its
# controller, with a run's metrics and metadata, beside the driver.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 2 ] || fail "usage: onboard.sh TENANT TOML [OPTION OF adapterdistill submit]..."
tenant="$1" toml="$2"
shift 2
require_tenant "$tenant"
require_token

exec python -m adapterdistill submit --owner="$tenant" --config="$toml" "$@"
