"""Asks a search endpoint over HTTP, and says in plain words why it does not answer."""

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx

from adapterdistill.errors import ConfigError, ServingError

_TIMEOUT_S = 30.0
_GATEWAY = (502, 503, 504)
"""Statuses of a proxy whose server does not answer; the endpoint's own come with JSON."""


def get(address: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """The answer to a GET. Proxies, arguments and errors are those of `post`."""
    return _sent("GET", address, path, headers)[0]


def post(
    address: str,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str],
    *,
    ca: Path | None = None,
) -> tuple[int, Any]:
    """The status and the JSON of the answer to a POST.

    Proxies of the environment are used, but not for this machine itself.

    Args:
        address: a URL, or HOST:PORT.
        ca: PEM of the authorities that may vouch for the server; None: those of the system.

    Raises:
        ConfigError: the address or a proxy's setting is malformed, or `ca` is no such file.
        ServingError: no answer came, or one that is not JSON. Where nothing serves there yet,
            `retry_after_s` says when to ask again.
    """
    response, via = _sent("POST", address, path, headers, body, ca)
    if response.has_redirect_location:
        raise ServingError(f"{address}{via} sends to another address ({response.status_code})")
    try:
        return response.status_code, response.json()
    except ValueError:  # of `json`, and of bytes that are no text
        if response.status_code == 404 and "/-/routes" in response.text:  # Ray Serve's own
            raise ServingError(
                f"{address} is not ready: it is starting; ask again in some seconds",
                retry_after_s=1.0,
            ) from None
        if response.status_code in _GATEWAY:
            raise ServingError(
                f"a proxy in front of {address} answered {response.status_code} "
                f"{response.reason_phrase}{via}: nothing serves behind it now. Ask again later",
                retry_after_s=None if via else 1.0,
            ) from None
        raise ServingError(
            f"{address} is not an AdapterDistill server: it answered "
            f"{response.status_code} {response.reason_phrase} without JSON{via}"
        ) from None


def _sent(
    method: str,
    address: str,
    path: str,
    headers: dict[str, str],
    body: dict[str, Any] | None = None,
    ca: Path | None = None,
) -> tuple[httpx.Response, str]:
    """The answer, and the words that name the proxy that it came through."""
    url = url_of(address)
    proxy = _proxy(url)
    via = "" if proxy is None else f", asked through the proxy that {proxy} names"
    try:
        response = httpx.request(
            method,
            url.join(url.path.rstrip("/") + path),
            json=body,
            headers=headers,
            timeout=_TIMEOUT_S,
            verify=True if ca is None else trusting(ca),
            trust_env=proxy is not None or not is_this_machine(url.host),
        )
    except httpx.HTTPError as error:
        raise ServingError(f"no answer from {address}{via}: {reason_of(error)}") from None
    except ImportError:  # httpx names its extra for SOCKS; other proxies need none
        raise ConfigError(
            f"{proxy} names a SOCKS proxy, which needs the package socksio: install it, or name "
            f"{url.host} in NO_PROXY"
        ) from None
    except (httpx.InvalidURL, ValueError):  # of a proxy: the address was read already
        raise ConfigError(f"{proxy} does not name a proxy: expected http://HOST:PORT") from None
    return response, via


def trusting(ca: Path) -> ssl.SSLContext:
    """TLS that trusts the authorities of a PEM file. Raises ConfigError: it has none."""
    try:
        return ssl.create_default_context(cafile=ca)
    except FileNotFoundError:
        raise ConfigError(f"{ca}: No such file") from None
    except (ssl.SSLError, OSError):
        raise ConfigError(f"{ca}: expected certificates as PEM") from None


def url_of(address: str) -> httpx.URL:
    """The URL of an address with or without its scheme. Raises ConfigError."""
    try:
        url = httpx.URL(address if "://" in address else f"http://{address}")
    except httpx.InvalidURL:
        raise ConfigError(f"not an address: {address}") from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ConfigError(f"not an address: {address}")
    return url


def is_this_machine(host: str) -> bool:
    """Whether the host's name or address is this machine's own."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(url: httpx.URL) -> str | None:
    """The variable that names the proxy for a URL; None: there is none."""
    if is_this_machine(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    named = urllib.request.getproxies()
    return next((f"{kind}_proxy".upper() for kind in (url.scheme, "all") if kind in named), None)


def reason_of(error: httpx.HTTPError) -> str:
    """Why a server did not answer, in plain words."""
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    causes = [*_causes(error)]
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its host's name is unknown"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused: nothing listens there"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "its certificate is not trusted here, or is for another name"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "it does not speak TLS: is its address http://?"
    if isinstance(error, httpx.ProxyError):
        return "the proxy refused"
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        return "what answers does not speak HTTP"
    return "the connection failed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
