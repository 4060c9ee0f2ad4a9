"""The gRPC interface of one replica: serving.proto over the batcher that HTTP uses, without Ray.

Ray Serve calls a method of the deployment for each call, and answers an exception with the
exception's text. So only a cancellation leaves this module as an exception: a refusal is an empty
message, with the status in the gRPC context. No refusal quotes the request.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from pydantic import BaseModel, ConfigDict, ValidationError

from adapterdistill.errors import AdapterDistillError, InvalidRequestError, UnauthenticatedError
from adapterdistill.registry.status import to_status
from adapterdistill.serve.engine.engine import LOAD_TIMEOUT_S, Engine, SearchAnswer
from adapterdistill.serve.engine.live import Alias
from adapterdistill.serve.http import middleware
from adapterdistill.serve.http.classify import ClassifyRequest, ClassifyResponse
from adapterdistill.serve.http.fault_words import field_of, sentence
from adapterdistill.serve.http.middleware import bearer_token
from adapterdistill.serve.http.schema import (
    MAX_QUERIES,
    MAX_QUERY_CHARS,
    SearchRequest,
    TenantName,
    TenantStatus,
)
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.request_context import RequestContext, Stages
from adapterdistill.serve.queue.searching import Searcher
from adapterdistill.serve.tokens import Tokens
from adapterdistill.serving.v1 import serving_pb2 as pb

if TYPE_CHECKING:  # it needs an extra
    from adapterdistill.serve.tracing import Tracing

MAX_REQUEST_BYTES = 2 * MAX_QUERIES * (4 * MAX_QUERY_CHARS + 16) + 4096
"""Limit of a request; the longest valid one, of pairs, has fewer bytes in UTF-8."""
_ALIASES: dict[int, Alias] = {pb.ALIAS_LIVE: "live", pb.ALIAS_CANARY: "canary"}
_log = logging.getLogger("ray.serve")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class _Search(SearchRequest):
    tenant: TenantName


class _Classify(ClassifyRequest):
    tenant: TenantName


class _Tenant(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    tenant: TenantName


Checked = TypeVar("Checked", bound=BaseModel)


class Rpc:
    """The calls of SearchService. Without `tokens` every call is refused, because Serve's gRPC
    listens on all interfaces."""

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        *,
        metrics: Metrics | None = None,
        searcher: Searcher | None = None,
        tokens: Tokens | None = None,
        log_requests: bool = False,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._engine = engine
        self._searcher = searcher or Searcher(engine, batcher)
        self._metrics = metrics or Metrics()
        self._tokens = tokens
        self._log_requests = log_requests
        self._tracing = tracing

    async def search(self, raw: bytes, grpc_context: Any) -> pb.SearchResponse:
        """Answer the bytes of a SearchRequest.

        grpc_context: like `ray.serve.grpc_util.RayServegRPCContext`.
        """

        async def answer(request: pb.SearchRequest, context: RequestContext) -> pb.SearchResponse:
            given: dict[str, Any] = {"tenant": request.tenant, "queries": list(request.queries)}
            if request.HasField("top_k"):
                given["top_k"] = request.top_k
            if request.alias != pb.ALIAS_UNSPECIFIED:
                given["alias"] = _ALIASES.get(request.alias, "(unknown)")
            if request.explain:
                given["explain"] = True
            asked = _checked(_Search, given)
            answers = await self._searcher.search(
                context,
                asked.tenant,
                asked.texts,
                asked.top_k,
                asked.alias,
                explain=asked.explain,
            )
            return _response(answers)

        return await self._answered(answer, pb.SearchRequest, pb.SearchResponse, raw, grpc_context)

    async def classify(self, raw: bytes, grpc_context: Any) -> pb.ClassifyResponse:
        """Answer the bytes of a ClassifyRequest."""

        async def answer(
            request: pb.ClassifyRequest, context: RequestContext
        ) -> pb.ClassifyResponse:
            given: dict[str, Any] = {
                "tenant": request.tenant,
                "task": request.task,
                "texts": list(request.texts),
            }
            if request.text_pairs:
                given["text_pairs"] = list(request.text_pairs)
            if request.HasField("top_k"):
                given["top_k"] = request.top_k
            if request.alias != pb.ALIAS_UNSPECIFIED:
                given["alias"] = _ALIASES.get(request.alias, "(unknown)")
            asked = _checked(_Classify, given)
            answers = await self._searcher.classify(
                context,
                asked.tenant,
                asked.task,
                asked.texts,
                asked.text_pairs,
                asked.top_k,
                asked.alias,
            )
            fields = ClassifyResponse.of(answers).model_dump(mode="json")
            _name_as_proto(fields["adapter"], "alias", "ALIAS")
            response: pb.ClassifyResponse = ParseDict(fields, pb.ClassifyResponse())
            return response

        return await self._answered(
            answer, pb.ClassifyRequest, pb.ClassifyResponse, raw, grpc_context
        )

    async def get_tenant(self, raw: bytes, grpc_context: Any) -> pb.GetTenantResponse:
        """Answer the bytes of a GetTenantRequest."""

        async def answer(request: pb.GetTenantRequest, _: RequestContext) -> pb.GetTenantResponse:
            tenant = _checked(_Tenant, {"tenant": request.tenant}).tenant
            live = await self._engine.hold(tenant, LOAD_TIMEOUT_S)
            status = TenantStatus.of(
                live, self._engine.snapshot, self._searcher.shadow.comparison(tenant)
            )
            return _state(status)

        return await self._answered(
            answer, pb.GetTenantRequest, pb.GetTenantResponse, raw, grpc_context
        )

    async def _answered(
        self,
        answer: Callable[[Any, RequestContext], Awaitable[Response]],
        request_type: type[Request],
        response_type: type[Response],
        raw: bytes,
        grpc_context: Any,
    ) -> Response:
        """Answer a call, with the work around it that `serve.http.middleware` does for HTTP."""
        context = RequestContext(
            middleware.request_id(
                next(_values(grpc_context.trailing_metadata(), "request_id"), b"")
            )
        )
        started_at, code = time.perf_counter(), grpc.StatusCode.OK
        if self._tracing is not None:
            context.stages = Stages(began_at=time.monotonic())
        response: Response = response_type()
        try:
            request = _parsed(request_type, raw)
            self._admit(request, grpc_context)
            response = await answer(request, context)
        except asyncio.CancelledError:
            # The caller has disconnected, or its deadline or the proxy's timeout has passed.
            context.outcome, code = "CANCELLED", grpc.StatusCode.CANCELLED
            raise
        except AdapterDistillError as error:
            code = _refuse(grpc_context, context, error)
        except Exception as error:
            _log.error("request %s failed: %s", context.request_id, middleware.place(error))
            code = _refuse(
                grpc_context, context, AdapterDistillError("the server failed on this request")
            )
        finally:
            seconds = time.perf_counter() - started_at
            self._metrics.answered(context, seconds)
            if self._log_requests:
                middleware.write_line(context, code.name, seconds)
            if self._tracing is not None:
                name = f"{pb.DESCRIPTOR.package}.{request_type.__name__.removesuffix('Request')}"
                carrier = dict(grpc_context.invocation_metadata())
                self._tracing.record(name, context, carrier, {"rpc.grpc.status_code": code.name})
        return response

    def _admit(self, request: Any, grpc_context: Any) -> None:
        given = [*_values(grpc_context.invocation_metadata(), "authorization")]
        if self._tokens is None:
            raise UnauthenticatedError("gRPC is answered only by a deployment that has tokens")
        if not self._tokens.admit(bearer_token(given), request.tenant):
            raise UnauthenticatedError("a valid bearer token for this tenant is needed")


def _parsed(kind: type[Request], raw: bytes) -> Request:
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidRequestError(
            f"the request has {len(raw)} bytes: at most {MAX_REQUEST_BYTES} are read"
        )
    try:
        request: Request = kind.FromString(raw)
    except DecodeError:
        raise InvalidRequestError("the request is not a message of this call") from None
    return request


def _checked(kind: type[Checked], given: dict[str, Any]) -> Checked:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = error.errors()
        told = "; ".join(sentence(fault, SearchRequest.model_fields) for fault in faults[:8])
        raise InvalidRequestError(told, field=field_of(faults[0]["loc"])) from None


def _refuse(
    grpc_context: Any, context: RequestContext, error: AdapterDistillError
) -> grpc.StatusCode:
    code, message, trailer = to_status(error)
    context.outcome = error.reason
    grpc_context.set_code(code)
    grpc_context.set_details(message)
    grpc_context.set_trailing_metadata([*trailer])
    return code


def _values(metadata: Any, wanted: str) -> Iterator[bytes]:
    for key, value in metadata:
        if key == wanted:
            yield value.encode("utf-8", "replace") if isinstance(value, str) else value


def _state(status: TenantStatus) -> pb.GetTenantResponse:
    fields = status.model_dump(mode="json")
    _name_as_proto(fields["adapter"], "alias", "ALIAS")
    if candidate := fields["candidate"]:
        _name_as_proto(candidate, "mode", "CANDIDATE_MODE")
        _name_as_proto(candidate, "state", "CANDIDATE_STATE")
    told: pb.GetTenantResponse = ParseDict(
        fields, pb.GetTenantResponse(), ignore_unknown_fields=True
    )
    return told


def _name_as_proto(fields: dict[str, Any], name: str, enum: str) -> None:
    fields[name] = f"{enum}_{fields[name].upper()}"


def _response(answers: list[SearchAnswer]) -> pb.SearchResponse:
    first = answers[0]
    return pb.SearchResponse(
        tenant=first.tenant,
        adapter=pb.AdapterVersion(
            name=first.adapter,
            version=first.version,
            form=first.variant,
            alias=f"ALIAS_{first.alias.upper()}",
        ),
        results=[
            pb.SearchResult(
                ranked=[
                    pb.RankedFaq(
                        faq_id=r.faq_id,
                        question=r.question,
                        answer=r.answer,
                        score=r.score,
                        views=r.views and pb.ViewScores(**r.views),
                    )
                    for r in answer.ranked
                ],
                abstained=answer.abstained,
                confidence=answer.confidence,
                decided_by=answer.decided_by,
            )
            for answer in answers
        ],
    )
