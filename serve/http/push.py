"""Takes a tenant's bundles over HTTP, with the tenant's token (`adapterdistill.store.pushing`).

The paths are for `adapterdistill bundle push`, and are not part of the described interface.
"""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import Response

from adapterdistill.serve.http.schema import TenantName
from adapterdistill.serve.queue.request_context import context_of
from adapterdistill.store.pushing import Receiver


def add_push(api: FastAPI, receiver: Receiver) -> None:
    """Add the two paths of a push."""

    @api.put("/v1/tenants/{tenant}/release", include_in_schema=False)
    async def offer(tenant: TenantName, request: Request) -> Response:
        context_of(request.scope).tenant = tenant
        lacking = await asyncio.to_thread(receiver.offer, tenant, await request.body())
        return Response(lacking.canonical_json(), media_type="application/json")

    @api.put("/v1/tenants/{tenant}/blobs/{sha256}", include_in_schema=False)
    async def take(
        tenant: TenantName,
        sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")],
        offset: Annotated[int, Query(ge=0, lt=10**12)],
        request: Request,
    ) -> Response:
        context_of(request.scope).tenant = tenant
        chunk = await request.body()
        taken = await asyncio.to_thread(receiver.take, tenant, sha256, offset, chunk)
        return Response(taken.canonical_json(), media_type="application/json")
