"""`POST /v1/embeddings`: vectors of texts through a tenant's adapter, in the form of OpenAI's API.

For operators, and only where the deployment says so: with enough vectors and their texts, somebody
could train a copy of the adapter.
"""

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adapterdistill.errors import OverloadedError
from adapterdistill.serve.engine.engine import LOAD_TIMEOUT_S, Engine
from adapterdistill.serve.engine.live import LiveTenant
from adapterdistill.serve.http import openapi
from adapterdistill.serve.http.schema import MAX_QUERIES, AdapterVersion, QueryText, TenantName
from adapterdistill.serve.queue.request_context import context_of


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


class EmbeddingsRequest(BaseModel):
    """Texts for one tenant's adapter."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: TenantName = Field(description="Name of the tenant, whose live adapter is asked.")
    input: Annotated[
        list[QueryText],
        Field(min_length=1, max_length=MAX_QUERIES),
        BeforeValidator(_listed, json_schema_input_type=list[QueryText] | QueryText),
    ] = Field(description="One text, or several.")
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="`base64`: of the float32 values, little-endian."
    )


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of its text in `input`.")
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Vectors of unit length, and the adapter that made them."""

    object: Literal["list"] = "list"
    model: str
    adapter: AdapterVersion
    data: list[Embedding]
    usage: Usage


def add_embeddings(api: FastAPI, engine: Engine, *, guarded: dict[str, Any]) -> None:
    """Add the operation to the app. One request at a time: searches come first."""
    busy = asyncio.Lock()

    @api.post(
        "/v1/embeddings",
        operation_id="createEmbeddings",
        tags=["state"],
        responses=openapi.refusals(without=["NO_CANDIDATE", "NO_FEEDBACK", "UNKNOWN_TASK"]),
        openapi_extra=guarded,
    )
    async def embeddings(
        body: Annotated[EmbeddingsRequest, Body()], request: Request
    ) -> EmbeddingsResponse:
        """Embed texts through a tenant's live adapter; for operators."""
        context = context_of(request.scope)
        context.tenant, context.num_queries = body.model, len(body.input)
        if busy.locked():
            raise OverloadedError(
                "another request for embeddings runs: try again later", retry_after_s=1
            )
        async with busy:
            live = await engine.hold(body.model, LOAD_TIMEOUT_S)
            return await asyncio.to_thread(_embedded, engine, live, body)


def _embedded(engine: Engine, live: LiveTenant, body: EmbeddingsRequest) -> EmbeddingsResponse:
    held = [live] * len(body.input)
    vectors = engine.embed(body.input, held).float().cpu().numpy()
    ids = live.bank.encoder.tokenize_queries(body.input, [live.manifest.encoder] * len(held))
    num_tokens = sum(map(len, ids))
    return EmbeddingsResponse(
        model=body.model,
        adapter=AdapterVersion(
            name=live.manifest.adapter, version=live.manifest.version, form=live.variant
        ),
        data=[
            Embedding(
                index=index,
                embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if body.encoding_format == "base64"
                else vector.tolist(),
            )
            for index, vector in enumerate(vectors)
        ],
        usage=Usage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )
