"""Sends a tenant's release and bundles to a deployment (`adapterdistill.store.pushing`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from adapterdistill.errors import ConfigError, PushRefusedError, ServingError, UnauthenticatedError
from adapterdistill.manifest import Record, sha256_hex
from adapterdistill.serving.http import is_this_machine, reason_of, trusting, url_of
from adapterdistill.store.bundle import Place, blob_key, read_contents
from adapterdistill.store.objects import open_objects
from adapterdistill.store.pushing import CHUNK_BYTES, Lacking, Offer, Taken, named_in
from adapterdistill.store.release import read_release

_TIMEOUT_S = 60.0
_ATTEMPTS = 5
_WAIT_S = 0.2


class Pushed(Record):
    """What a push did."""

    tenant: str
    bundle: str
    """The live bundle."""
    bytes: int
    """Size of all its bundles."""
    sent_bytes: int
    """What the deployment lacked of them."""


class _AgainError(Exception):
    """Internal: the server or the way to it failed, and may not fail again."""


def push(store: Place, tenant: str, address: str, token: str, *, ca: Path | None = None) -> Pushed:
    """Send a tenant's release with its bundles; what the deployment has is not sent.

    Args:
        address: the deployment's URL. Plain HTTP is taken for this machine alone.
        ca: certificates of the authorities to trust, PEM; None: the system's.

    Raises:
        ConfigError: the address is malformed or not protected, or `ca` holds no certificates.
        UnauthenticatedError: the deployment refuses the token for this tenant.
        PushRefusedError: the deployment refuses the bundles; what it served stays as it was.
        ServingError: nothing is live in the store, a bundle is damaged, or no answer came. The
            next push goes on where this one ended.
    """
    url, objects = url_of(address), open_objects(store)
    if url.scheme != "https" and not is_this_machine(url.host):
        raise ConfigError(f"{address}: a push holds private FAQs and a token: give an https:// URL")
    release = read_release(objects, tenant)
    bundles = {one: read_contents(objects, tenant, one) for one in named_in(release)}
    offer = Offer(release=release, bundles=bundles)
    sizes, sent = offer.sizes, 0
    with httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=_TIMEOUT_S,
        verify=True if ca is None else trusting(ca),
        trust_env=not is_this_machine(url.host),
    ) as client:

        def put(path: str, body: bytes) -> Any:
            return _put(client, address, f"/v1/tenants/{tenant}/{path}", body)

        while lacking := Lacking.model_validate(put("release", offer.canonical_json())).have:
            before = sent
            for sha, have in lacking.items():
                content = objects.read(blob_key(tenant, sha))
                if content is None or sha256_hex(content) != sha:
                    raise ServingError(f"tenant {tenant}: a bundle in {objects.where} is damaged")
                sent += _send(put, sha, content, have)
            if sent == before and any(sizes[sha] for sha in lacking):
                raise ServingError(f"{address} takes nothing of what it says that it lacks")
    return Pushed(tenant=tenant, bundle=release.bundle, bytes=sum(sizes.values()), sent_bytes=sent)


def _send(put: Callable[[str, bytes], Any], sha: str, content: bytes, have: int) -> int:
    """Send a blob from `have` on; returns the number of bytes that were sent."""
    sent = 0
    while True:
        chunk = content[have : have + CHUNK_BYTES]
        now = Taken.model_validate(put(f"blobs/{sha}?offset={have}", chunk)).have
        sent += len(chunk)
        if now == len(content):
            return sent
        if now <= have and sent > 2 * len(content) + _ATTEMPTS * CHUNK_BYTES:
            raise ServingError("another push of this tenant is under way: push again later")
        have = now


def _put(client: httpx.Client, address: str, path: str, body: bytes) -> Any:
    tries = Retrying(
        retry=retry_if_exception_type(_AgainError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=_WAIT_S, max=5),
        reraise=True,
    )
    try:
        for attempt in tries:
            with attempt:
                return _answer(client, address, path, body)
    except _AgainError as error:
        raise ServingError(f"{error}: push again, and it goes on where this ended") from None
    raise AssertionError("tenacity raises")


def _answer(client: httpx.Client, address: str, path: str, body: bytes) -> Any:
    try:
        response = client.put(path, content=body)
    except httpx.HTTPError as error:
        raise _AgainError(f"no answer from {address}: {reason_of(error)}") from None
    try:
        said = response.json()
        reason, message = said.get("reason", ""), said.get("message", "")
    except (ValueError, AttributeError):
        said, reason, message = None, "", ""
    if response.status_code == 200 and said is not None:
        return said
    if response.status_code == 401:
        raise UnauthenticatedError(f"{address} refuses the token for this tenant")
    if reason == "PUSH_REFUSED":
        raise PushRefusedError(f"{address} refuses the push: {message}")
    if response.status_code in (404, 405) and reason:
        raise PushRefusedError(
            f"{address} takes no bundles over HTTP: start it with `serve --push` (push: true)"
        )
    if response.status_code >= 500:
        raise _AgainError(f"{address} failed ({response.status_code} {reason}".rstrip() + ")")
    raise ServingError(f"{address} is not an AdapterDistill server ({response.status_code})")
