"""The HTTP interface's messages. Public: they appear in the OpenAPI description."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from adapterdistill.manifest import NAME_PATTERN
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchAnswer
from adapterdistill.serve.engine.live import Alias, LiveTenant, Snapshot, VariantName, key_of
from adapterdistill.serve.queue.shadow import Comparison
from adapterdistill.store.bundle import NEVER_ABSTAIN
from adapterdistill.store.release import Mode

MAX_QUERY_CHARS = 2000
MAX_QUERIES = 64
MAX_TOP_K = 50

TenantName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


_NOT_BLANK = r"[^\s\u001c-\u001f\u0085]"
"""The same as `str.strip` for schemas, whose white space is that of JavaScript."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank")
    return text


def whole(number: object) -> object:
    """Read 5.0 as 5: JSON has one kind of number."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


QueryText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS),
    AfterValidator(_not_blank),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARS, "pattern": _NOT_BLANK}
    ),
]


class SearchRequest(BaseModel):
    """One question as `query`, or several as `queries`."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        # Not `oneOf`, of which generators of clients make two classes without the other fields.
        json_schema_extra={
            "if": {"required": ["query"], "properties": {"query": {"type": "string"}}},
            "then": {"properties": {"queries": {"type": "null"}}},
            "else": {
                "required": ["queries"],
                "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
            },
        },
    )

    query: QueryText | None = None
    queries: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)] | None = None
    top_k: Annotated[int, BeforeValidator(whole)] = Field(
        default=5, ge=1, le=MAX_TOP_K, strict=True, description="FAQs of each answer."
    )
    alias: Alias | None = Field(
        default=None,
        description="`live`, or `canary`: the candidate, whatever its mode and share. Null: the "
        "live one, or a canary for its share of the requests.",
    )
    explain: bool = Field(
        default=False,
        strict=True,
        description="Whether each ranked FAQ also tells how the views score it.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise PydanticCustomError("query_or_queries", "give either query or queries")
        return self

    @property
    def texts(self) -> list[str]:
        return self.queries or [self.query or ""]


class AdapterVersion(BaseModel):
    """The adapter that answered; `version` is the sha256 of its weights.

    `form` is the variant that was served: the adapter itself, or a cheaper model made from it.
    `alias` says which bundle answered: the tenant's live one, or the candidate that is tried beside
    it.
    """

    name: str
    version: str
    form: VariantName = "adapter"
    alias: Alias = "live"


class ViewScores(BaseModel):
    """How each view scores an FAQ. A view that the tenant does not have is null or left out.

    The scales differ: compare the scores of one view with each other.
    """

    cosine: float = Field(
        description="Cosine of the query and the FAQ's prototype, or its nearest vector."
    )
    head: float | None = Field(
        default=None, description="Score by the head, which learned from labelled queries."
    )
    characters: float | None = Field(
        default=None, description="Similarity of the letters, from 0 to 1."
    )
    answers: float | None = Field(
        default=None,
        description="Cosine of the query and the nearest sentence of the FAQ's answer; -1 for an "
        "FAQ without an answer.",
    )


class RankedFaq(BaseModel):
    faq_id: str
    question: str
    answer: str | None
    score: float = Field(
        description="What the FAQs are ranked by: the cosine of the query and the FAQ's nearest "
        "vector, or the score that the tenant's bundle makes of several views."
    )
    views: ViewScores | None = Field(
        default=None, description="Only in answers to requests with `explain`."
    )


class SearchResult(BaseModel):
    """FAQs, best first. If `abstained`, none of them is likely to answer the query."""

    ranked: list[RankedFaq]
    abstained: bool
    confidence: float | None = Field(
        default=None,
        description="Probability that the best FAQ is right, calibrated on held-out queries of "
        "the tenant; null without such queries.",
    )
    decided_by: str | None = Field(
        default=None,
        description="The view that puts the first FAQ furthest ahead of the second. Only in "
        "answers to requests with `explain`; left out if the tenant has one FAQ.",
    )


class SearchResponse(BaseModel):
    """The answers; `results` are in the order of the queries."""

    tenant: str
    adapter: AdapterVersion
    results: list[SearchResult]


def json_of(answers: Sequence[SearchAnswer]) -> bytes:
    """The `SearchResponse` to one request, whose answers come from one adapter version.

    Written without the models, which would check the engine's own values again: 3 us of the event
    loop instead of 20.
    """
    first = answers[0]
    assert {(a.tenant, a.version, a.variant, a.alias) for a in answers} == {
        (first.tenant, first.version, first.variant, first.alias)
    }
    return to_json(
        {
            "tenant": first.tenant,
            "adapter": {
                "name": first.adapter,
                "version": first.version,
                "form": first.variant,
                "alias": first.alias,
            },
            "results": [
                {
                    "ranked": [
                        {
                            "faq_id": faq.faq_id,
                            "question": faq.question,
                            "answer": faq.answer,
                            "score": faq.score,
                        }
                        | ({} if faq.views is None else {"views": faq.views})
                        for faq in answer.ranked
                    ],
                    "abstained": answer.abstained,
                    "confidence": answer.confidence,
                }
                | ({} if answer.decided_by is None else {"decided_by": answer.decided_by})
                for answer in answers
            ],
        }
    )


class Quality(BaseModel):
    """The quality of answers at the threshold, on the tenant's held-out queries.

    Out-of-scope queries are among them where the tenant has some.
    """

    queries: int = Field(description="Held-out queries behind these figures.")
    share_answered: float
    expected_error: float = Field(
        description="Share of wrong best FAQs among the answered queries. It is optimistic: the "
        "threshold was chosen on the same queries."
    )
    expected_error_bound: float = Field(
        description="Exact upper bound of the same, with 95% confidence."
    )


class DriftStatus(BaseModel):
    """Recent queries compared with the held-out ones, as this replica has counted them."""

    queries: int = Field(description="Recent queries, the last 1,000 to 2,000 at most.")
    share_abstained: float | None = Field(description="Null before the first query.")
    psi: float | None = Field(
        description="Population stability index of the best scores; null without held-out "
        "queries to compare with, or before there are enough recent ones."
    )
    expected_psi: float | None = Field(description="The index that chance alone would give.")
    drifted: bool = Field(
        description="Whether the index is above 0.25, and higher than in 999 of 1,000 "
        "unchanged samples."
    )


class ComparisonStatus(BaseModel):
    """How the live bundle and the candidate answered the same queries, on this replica."""

    queries: int
    same_best: float = Field(description="Share of queries for which the same FAQ was best.")
    same_abstention: float = Field(
        description="Share of queries for which both abstained, or neither."
    )
    mean_score_difference: float = Field(description="Mean absolute difference of the best scores.")


class CandidateStatus(BaseModel):
    """The candidate: a version that is tried beside the live one."""

    version: str
    mode: Mode = Field(
        description="`canary`: it answers its share of the requests. `shadow`: it is asked the "
        "same questions afterwards, and compared."
    )
    share: float
    state: Literal["served", "refused", "withdrawn"]
    comparison: ComparisonStatus | None = Field(description="Null before the first query.")

    @classmethod
    def of(cls, now: Snapshot, tenant: str, found: Comparison | None) -> Self | None:
        candidate = now.candidates.get(tenant)
        if candidate is None:
            return None
        why_not: Literal["refused", "withdrawn"] = (
            "withdrawn" if key_of(tenant, "canary") in now.withdrawals else "refused"
        )
        return cls(
            version=candidate.bundle[:64],
            mode=candidate.mode,
            share=candidate.share,
            state="served" if now.candidate(tenant) else why_not,
            comparison=found
            and ComparisonStatus(
                queries=found.queries,
                same_best=round(found.same_best / found.queries, 4),
                same_abstention=round(found.same_abstention / found.queries, 4),
                mean_score_difference=round(found.difference / found.queries, 4),
            ),
        )


class TenantStatus(BaseModel):
    tenant: str
    adapter: AdapterVersion
    encoder: str = Field(description="Name of the encoder that reads the tenant's queries.")
    num_faqs: int
    threshold: float | None = Field(
        description="A query with a lower best score gets no answer; null: every query gets one."
    )
    quality: Quality | None = Field(description="Null without labelled held-out queries.")
    drift: DriftStatus
    candidate: CandidateStatus | None = Field(description="Null without a candidate.")

    @classmethod
    def of(cls, live: LiveTenant, now: Snapshot, found: Comparison | None) -> Self:
        """The status of a tenant in memory. `found`: how its candidate compares."""
        calibration, shift = live.calibration, live.drift.read()
        return cls(
            tenant=live.manifest.tenant,
            adapter=AdapterVersion(
                name=live.manifest.adapter, version=live.manifest.version, form=live.variant
            ),
            encoder=live.manifest.encoder.name,
            num_faqs=len(live.faqs),
            threshold=None if live.threshold == NEVER_ABSTAIN else live.threshold,
            quality=calibration
            and Quality(
                queries=calibration.rows,
                share_answered=round(calibration.share_answered, 4),
                expected_error=round(calibration.expected_error, 4),
                expected_error_bound=round(calibration.error_bound, 4),
            ),
            drift=DriftStatus(
                queries=shift.queries,
                share_abstained=shift.abstained / shift.queries if shift.queries else None,
                psi=shift.psi,
                expected_psi=shift.expected_psi,
                drifted=shift.drifted,
            ),
            candidate=CandidateStatus.of(now, live.manifest.tenant, found),
        )


class Health(BaseModel):
    status: str
    num_tenants: int
    num_withdrawn: int
    """Tenants that are not served because their adapter was withdrawn."""
    seconds_since_refresh: float
    store: str = Field(description="`ok`; or that it is lost, and what the replica does.")


class LoadedEncoder(BaseModel):
    """An encoder that this replica has loaded, and what it takes of the memory."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    weights_sha256: str
    encoder_bytes: int = Field(description="Memory of its weights.")
    adapter_bytes: int = Field(description="Memory of its bank: adapters, and free places.")
    tenants_in_memory: int = Field(description="Candidates are counted like tenants.")


class Encoders(BaseModel):
    """The encoders of this replica, and the bounds on their memory."""

    loaded: list[LoadedEncoder]
    not_loaded: list[str] = Field(
        description="Encoders that may be loaded, and that no bundle has needed, or that were "
        "refused."
    )
    encoder_limit_bytes: int = Field(description="Most memory of all encoders' weights.")
    adapter_limit_bytes: int = Field(description="Most memory of all banks.")

    @classmethod
    def of(cls, engine: Engine) -> Self:
        return cls(
            loaded=[LoadedEncoder.model_validate(one) for one in engine.encoders],
            not_loaded=list(engine.banks.not_loaded),
            encoder_limit_bytes=int(engine.banks.encoder_mib * 2**20),
            adapter_limit_bytes=int(engine.banks.bank_mib * 2**20),
        )


class ErrorBody(BaseModel):
    """A refusal. Neither field quotes a query."""

    reason: str = Field(description="What is wrong, in one word for programs; it stays the same.")
    message: str = Field(description="The same in a sentence for people; its words may change.")
