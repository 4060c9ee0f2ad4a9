"""The HTTP interface of one replica: a plain FastAPI app over a batcher, without Ray.

Errors become statuses here and nowhere else. No error quotes the request: FastAPI's own 422 echoes
the input, so it is replaced.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from inspect import signature
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from adapterdistill.errors import (
    AdapterDistillError,
    DeadlineExceededError,
    InvalidRequestError,
    NoCandidateError,
    NoFeedbackError,
    OverloadedError,
    PushRefusedError,
    StoreError,
    UnknownTaskError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.serve.engine.engine import LOAD_TIMEOUT_S, Engine
from adapterdistill.serve.http import docs, openapi
from adapterdistill.serve.http.classify import ClassifyRequest, add_classify
from adapterdistill.serve.http.content_type import check_content_type
from adapterdistill.serve.http.embeddings import EmbeddingsRequest, add_embeddings
from adapterdistill.serve.http.fault_words import sentence
from adapterdistill.serve.http.feedback import FeedbackRequest
from adapterdistill.serve.http.middleware import (
    BodyLimit,
    Guard,
    HeadAsGet,
    RequestMiddleware,
    error_response,
)
from adapterdistill.serve.http.push import add_push
from adapterdistill.serve.http.schema import (
    Encoders,
    Health,
    SearchRequest,
    SearchResponse,
    TenantName,
    TenantStatus,
    json_of,
)
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.request_context import context_of
from adapterdistill.serve.queue.searching import Searcher
from adapterdistill.serve.tokens import Tokens
from adapterdistill.store.pushing import Receiver

if TYPE_CHECKING:  # it needs an extra
    from adapterdistill.serve.tracing import Tracing

_STATUS: dict[type[AdapterDistillError], HTTPStatus] = {
    UnknownTenantError: HTTPStatus.NOT_FOUND,
    NoCandidateError: HTTPStatus.NOT_FOUND,
    UnknownTaskError: HTTPStatus.NOT_FOUND,
    InvalidRequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoFeedbackError: HTTPStatus.NOT_FOUND,
    PushRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    WithdrawnError: HTTPStatus.GONE,
    OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
}
_STORE_LOST = "The store is out of reach; this replica serves what it has."
_INVALID = HTTPStatus.UNPROCESSABLE_ENTITY
_BODIES: dict[str, type[BaseModel]] = {
    "feedback": FeedbackRequest,
    "embeddings": EmbeddingsRequest,
    "classify": ClassifyRequest,
}
"""Bodies by the last part of the path; all others are searches."""
TenantInPath = Annotated[
    TenantName,
    Path(description="Name of the tenant.", openapi_examples={"acme": {"value": "acme"}}),
]


def build_api(
    engine: Engine,
    batcher: Batcher,
    refreshed_at: Callable[[], float],
    *,
    metrics: Metrics | None = None,
    searcher: Searcher | None = None,
    tokens: Tokens | None = None,
    log_requests: bool = False,
    tracing: "Tracing | None" = None,
    feedback_store: FilePath | None = None,
    embeddings: bool = False,
    store_lost_at: Callable[[], float | None] = lambda: None,
    receiver: Receiver | None = None,
) -> FastAPI:
    """The app. `refreshed_at`: monotonic time of the last complete refresh.

    Without `tokens` everyone who reaches the app may ask for every tenant. Without a
    `feedback_store`, the folder of bundles, no feedback is taken. `embeddings` adds
    `POST /v1/embeddings`, for operators.
    """
    metrics = metrics or Metrics()
    searcher = searcher or Searcher(engine, batcher)
    metrics.candidates.totals = searcher.shadow.totals

    @asynccontextmanager
    async def until_drained(api: FastAPI) -> AsyncIterator[None]:
        yield
        await searcher.drain()  # Ray Serve calls this when no request is in progress

    api = FastAPI(
        title="AdapterDistill serving",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_tags=openapi.TAGS,
        redirect_slashes=False,  # a redirect would name the host that the request claims
        lifespan=until_drained,
    )
    api.add_middleware(HeadAsGet)
    api.add_middleware(BodyLimit)
    if tokens is not None:
        api.add_middleware(Guard, tokens=tokens)
    if tracing is not None:
        api.add_middleware(tracing.around)
    api.add_middleware(
        RequestMiddleware, metrics=metrics, log_requests=log_requests
    )  # outside the guard
    openapi.describe_tokens(api)
    guarded = openapi.security(required=tokens is not None)
    # Async: otherwise each would run on a thread, so slowly that refusals delay everyone's answers.
    api.add_exception_handler(AdapterDistillError, _domain_error)
    api.add_exception_handler(RequestValidationError, _invalid_request)
    api.add_exception_handler(HTTPException, _http_error)

    async def search(
        tenant: TenantInPath,
        body: Annotated[SearchRequest, Body(openapi_examples=openapi.SEARCH_EXAMPLES)],
        request: Request,
    ) -> Response:
        """Rank the tenant's FAQs for each query."""
        answers = await searcher.search(
            context_of(request.scope),
            tenant,
            body.texts,
            body.top_k,
            body.alias,
            explain=body.explain,
        )
        return Response(json_of(answers), media_type="application/json")

    api.router.add_api_route(
        "/v1/tenants/{tenant}/search",
        search,
        methods=["POST"],
        operation_id="search",
        tags=["search"],
        responses=openapi.refusals(without=["NO_FEEDBACK", "UNKNOWN_TASK"])
        | {200: {"content": {"application/json": {"example": openapi.ANSWER_EXAMPLE}}}},
        response_model=SearchResponse,
        openapi_extra=guarded,
        route_class_override=SearchRoute,
    )

    add_classify(api, searcher, guarded=guarded)

    @api.post(
        "/v1/tenants/{tenant}/feedback",
        status_code=HTTPStatus.NO_CONTENT,
        operation_id="giveFeedback",
        tags=["search"],
        responses=openapi.refusals(without=["NO_CANDIDATE", "UNKNOWN_TASK"]),
        openapi_extra=guarded,
    )
    async def give_feedback(
        tenant: TenantInPath,
        body: Annotated[FeedbackRequest, Body(openapi_examples=openapi.FEEDBACK_EXAMPLES)],
        request: Request,
    ) -> None:
        """Say whether an answer was right, or which FAQ is. The owner may train on it."""
        check_content_type(request)
        if feedback_store is None:
            raise NoFeedbackError("this deployment keeps no feedback: see `serve --feedback`")
        live = await engine.hold(tenant, LOAD_TIMEOUT_S)
        if body.faq_id is not None and body.faq_id not in {faq.faq_id for faq in live.faqs}:
            raise RequestValidationError([{"type": "faq_id", "loc": ("body", "faq_id")}])
        await asyncio.to_thread(body.write, feedback_store, tenant)

    @api.get(
        "/v1/tenants/{tenant}",
        operation_id="getTenant",
        tags=["state"],
        responses=openapi.refusals(without=["NO_CANDIDATE", "NO_FEEDBACK", "UNKNOWN_TASK"]),
        openapi_extra=guarded,
    )
    async def tenant_status(tenant: TenantInPath) -> TenantStatus:
        """The tenant's live adapter, its expected error, the drift of its queries, and its
        candidate."""
        live = await engine.hold(tenant, LOAD_TIMEOUT_S)
        return TenantStatus.of(live, engine.snapshot, searcher.shadow.comparison(tenant))

    @api.get(
        "/v1/encoders",
        operation_id="getEncoders",
        tags=["state"],
        responses=openapi.refusals(
            without=[one.reason for one in openapi.REFUSALS if one.status != 401]
        ),
        openapi_extra=guarded,
    )
    async def encoders() -> Encoders:
        """The encoders of this replica, and their memory."""
        return Encoders.of(engine)

    @api.get(
        "/healthz",
        operation_id="getHealth",
        tags=["state"],
        responses={503: {"model": Health, "description": "The replica stops."}},
    )
    async def healthz(response: Response) -> Health:
        """Whether this replica answers, and how fresh its view of the store is."""
        if batcher.draining:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return Health(
            status="draining" if batcher.draining else "ok",
            num_tenants=engine.snapshot.num_tenants,
            num_withdrawn=engine.snapshot.num_withdrawn,
            seconds_since_refresh=round(time.monotonic() - refreshed_at(), 3),
            store="ok" if store_lost_at() is None else _STORE_LOST,
        )

    if receiver is not None:
        add_push(api, receiver)

    if embeddings:
        add_embeddings(api, engine, guarded=guarded)

    @api.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @api.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(docs.page(api.openapi()), headers=docs.HEADERS)

    return api


def _error(
    request: Request,
    status: HTTPStatus,
    reason: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    context_of(request.scope).outcome = reason
    return error_response(status, reason, message, headers)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AdapterDistillError)
    status = _STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(math.ceil(wait_s))}
    return _error(request, status, error.reason, str(error), headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    last = request.url.path.rpartition("/")[2]
    body = _BODIES.get(last, SearchRequest)
    faults = sorted({sentence(fault, body.model_fields) for fault in error.errors()})
    return _error(request, _INVALID, "INVALID_REQUEST", "; ".join(faults[:8]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's for a body that it cannot decode
        undecodable = RequestValidationError([{"type": "json_undecodable", "loc": ("body",)}])
        return await _invalid_request(request, undecodable)
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allowed = _allowed(headers["Allow"])
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        return _error(request, status, status.name, f"this path takes {allowed}", headers)
    return _error(request, status, status.name, "there is no such path", headers)


def _allowed(by_routes: str) -> str:
    """The methods of a path: those of its route, and what every path with them takes."""
    methods = {*by_routes.split(", "), "OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


_tenant_name: TypeAdapter[str] = TypeAdapter(TenantName)


class SearchRoute(APIRoute):
    """The route of a search, for an endpoint of `tenant`, `body` and `request`.

    FastAPI parses and checks a request piece by piece in Python: 50 of the 110 us that a request
    spends in the app. Here pydantic reads the bytes themselves. FastAPI still handles what pydantic
    refuses, so every fault is named as on all other routes, and it describes the route from the
    endpoint's signature.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        assert signature(self.endpoint).parameters.keys() == {"tenant", "body", "request"}
        by_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            check_content_type(request)
            try:
                tenant = _tenant_name.validate_python(request.path_params["tenant"])
                body = SearchRequest.model_validate_json(await request.body())
            except ValidationError:
                return await by_fastapi(request)
            response: Response = await self.endpoint(tenant=tenant, body=body, request=request)
            return response

        return handle
