#!/usr/bin/env bash
#   cluster/nodes/start.sh [OPTION OF ray start]...
#
# Starts this node in its role. The arguments are in its file ~/.adapterdistill/cluster/role, such as
# "owner.sh acme 10.0.0.1 10.0.0.2". For `ray up`, which has one command for all workers.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$here/environment.sh"

role="$ADAPTERDISTILL_CLUSTER/role"
[ -s "$role" ] || fail "$role is missing: it says what this node is, such as: worker.sh HEAD_ADDRESS OWN_ADDRESS"
read -r -a command < "$role" || [ "${#command[@]}" -gt 0 ] # the last line may lack its end
case "${command[0]}" in
head.sh | owner.sh | worker.sh) exec "$here/${command[0]}" "${command[@]:1}" "$@" ;;
*) fail "$role: expected head.sh, owner.sh or worker.sh, not ${command[0]}" ;;
esac
