"""Requests for listings of versions, and how their answers are read."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypedDict

from adapterdistill.manifest import EncoderRef, Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.answers import Published
from adapterdistill.registry.v1 import registry_pb2 as pb

_PAGE = 200


class Chosen(TypedDict, total=False):
    """A choice of versions; an absent field, or None, selects all."""

    tenant: str | None
    exclude_tenant: str | None
    encoder: EncoderRef | None
    """The encoder, compared by its digests."""
    latest_only: bool
    """Whether to list only the newest version of each adapter; true by default."""
    task: str | None
    language: str | None
    labels: Collection[str]
    """Labels that a version must all have."""


def full_request(chosen: Chosen) -> pb.ListVersionsRequest:
    """Ask for versions with their manifests."""
    selected = pb.VersionFilter(
        tenant=chosen.get("tenant") or "",
        exclude_tenant=chosen.get("exclude_tenant") or "",
        encoder=digests(chosen.get("encoder")),
        latest_only=chosen.get("latest_only", True),
        task=chosen.get("task") or "",
        language=chosen.get("language") or "",
        labels=chosen.get("labels", ()),
    )
    return pb.ListVersionsRequest(filter=selected, page_size=_PAGE)


def summary_request(
    encoder: EncoderRef, exclude_tenant: str, language: str | None = None
) -> pb.ListVersionsRequest:
    """Ask for the newest version of each adapter of other tenants, without manifests."""
    selected = pb.VersionFilter(
        exclude_tenant=exclude_tenant,
        encoder=digests(encoder),
        latest_only=True,
        language=language or "",
    )
    return pb.ListVersionsRequest(
        filter=selected, page_size=wire.MAX_PAGE, view=pb.VERSION_VIEW_SUMMARY
    )


def pages(
    request: pb.ListVersionsRequest, call: Callable[[pb.ListVersionsRequest], Any]
) -> Iterator[pb.Version]:
    """Yield the versions of all pages; `call` fetches one page."""
    while True:
        page = call(request)
        yield from page.versions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def digests(encoder: EncoderRef | None) -> pb.EncoderDigests | None:
    if encoder is None:
        return None
    return pb.EncoderDigests(
        weights_sha256=encoder.weights_sha256, tokenizer_sha256=encoder.tokenizer_sha256
    )


def published(manifest: Manifest, version: pb.Version) -> Published:
    """Read a version's message, whose manifest was parsed before."""
    return Published(
        manifest=manifest,
        state=wire.read_state(version),
        state_reason=version.state_reason,
        withdrawn_teacher=version.withdrawn_teacher,
        consent=wire.read_consent(version.consent) if version.HasField("consent") else None,
    )
