#!/usr/bin/env bash
# Makes a Ray cluster's authority, its token, and a certificate for each of its nodes.
#
#   cluster/nodes/certificates.sh FOLDER ADDRESS...
#
# Copy FOLDER/ADDRESS to ~/.adapterdistill/cluster on that node over a confidential channel.
# FOLDER/ca.key must not leave this machine. Run the script again for further nodes, or to renew. The
# registry has another authority (`adapterdistill registry init`), because owners do not trust each
# other's clusters.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ "$#" -ge 2 ] || fail "usage: certificates.sh FOLDER ADDRESS..."
folder="$1"
shift
mkdir -p "$folder"

if [ ! -s "$folder/ca.key" ]; then
    # 10 years, because all nodes' certificates must change when the authority expires.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 \
        -subj "/CN=adapterdistill Ray cluster" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$folder/ca.key" -out "$folder/ca.crt"
fi
[ -s "$folder/token" ] || openssl rand -hex 32 > "$folder/token" # 256 bits: not to be guessed

for address in "$@"; do
    require_address "$address"
    if [[ "$address" =~ ^[0-9.]+$ || "$address" == *:* ]]; then name="IP:$address"; else name="DNS:$address"; fi
    node="$folder/$address"
    mkdir -p "$node"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
        -subj "/CN=$address" -keyout "$node/node.key" -out "$node/node.csr"
    # Ray calls a node's processes by the node's address, and its own by loopback. A year, like the
    # registry's own certificate.
    openssl x509 -req -in "$node/node.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" \
        -days 365 -sha256 -out "$node/node.crt" -extfile <(
            printf '%s\n' \
                "subjectAltName=$name,IP:127.0.0.1,DNS:localhost" \
                "basicConstraints=critical,CA:FALSE" \
                "extendedKeyUsage=serverAuth,clientAuth"
        )
    rm "$node/node.csr"
    cp "$folder/ca.crt" "$folder/token" "$node/"
    echo "$node: for $address"
done
