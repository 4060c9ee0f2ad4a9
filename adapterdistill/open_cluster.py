"""Refuses Ray clusters that are open to everybody.

Whoever reaches the ports of a Ray without a token runs code on its nodes: that reads rows, queries
and keys, and changes adapters.
"""

from adapterdistill import ray_private
from adapterdistill.errors import ConfigError


def refuse_open_cluster(*, insecure: bool) -> None:
    """Refuse the connected cluster if it asks for no token, unless `insecure` accepts that.

    Raises:
        ConfigError: it asks for none.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    if not insecure and not ray_private.asks_for_token(address):
        raise _open(address)


def refuse_open_dashboard(address: str, *, insecure: bool) -> None:
    """Refuse a cluster whose dashboard takes jobs without a token, unless `insecure` accepts that.

    Args:
        address: URL of the dashboard.

    Raises:
        ConfigError: it takes them.
        httpx.HTTPError: it does not answer.
    """
    import httpx

    if not insecure and httpx.get(f"{address.rstrip('/')}/api/jobs/", timeout=30).is_success:
        raise _open(address)


def _open(address: str) -> ConfigError:
    return ConfigError(
        f"the Ray cluster at {address} asks for no token: everybody who reaches it can run code in "
        "it, read its rows and change its adapters. Start it with a token "
        "(cluster/single/start.sh and cluster/nodes/ do), or accept the danger with "
        "--insecure-cluster (in the settings of `serve deploy`, insecure_cluster: true)"
    )
