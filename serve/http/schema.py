"""The HTTP interface's messages. Public: they appear in the OpenAPI description."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from adapterdistill.bundle import NEVER_ABSTAIN
from adapterdistill.manifest import NAME_PATTERN
from adapterdistill.release import Mode
from serve.engine.items import SearchAnswer
from serve.engine.live import Alias, LiveTenant, ServedAs, Snapshot, key_of
from serve.queue.shadow import Comparison

MAX_QUERY_CHARS = 2000
MAX_QUERIES = 64
MAX_TOP_K = 50

TenantName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank")
    return text


QueryText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS),
    AfterValidator(_not_blank),
]


class SearchRequest(BaseModel):
    """One question as `query`, or several as `queries`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    query: QueryText | None = None
    queries: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)] | None = None
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K, strict=True)
    alias: Alias | None = Field(
        default=None,
        description="`live`, or `canary`: the candidate, whatever its mode and share. Null: the "
        "live one, or a canary for its share of the requests.",
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
    """Which adapter answered; `version` is the sha256 of its weights.

    `form` is what was served: the adapter itself, or a cheaper form that was made of it. `alias`
    says as what: the tenant's live one, or the candidate that is tried beside it.
    """

    name: str
    version: str
    form: ServedAs = "adapter"
    alias: Alias = "live"


class RankedFaq(BaseModel):
    faq_id: str
    question: str
    answer: str | None
    score: float = Field(description="Cosine of the query and the FAQ's nearest vector.")


class SearchResult(BaseModel):
    """FAQs best first. If `abstained`, none is thought to answer the query."""

    ranked: list[RankedFaq]
    abstained: bool
    confidence: float | None = Field(
        default=None,
        description="Probability that the best FAQ is right, calibrated on held-out queries of "
        "the tenant; null where there were none.",
    )


class SearchResponse(BaseModel):
    """`results` in the order of the queries."""

    tenant: str
    adapter: AdapterVersion
    results: list[SearchResult]


def json_of(answers: Sequence[SearchAnswer]) -> bytes:
    """The `SearchResponse` to one request, whose answers come from one adapter version.

    Written without the models, which would check once more what the engine has just made: 3 us of
    the event loop instead of 20.
    """
    first = answers[0]
    assert {(a.tenant, a.version, a.form, a.alias) for a in answers} == {
        (first.tenant, first.version, first.form, first.alias)
    }
    return to_json(
        {
            "tenant": first.tenant,
            "adapter": {
                "name": first.adapter,
                "version": first.version,
                "form": first.form,
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
                        for faq in answer.ranked
                    ],
                    "abstained": answer.abstained,
                    "confidence": answer.confidence,
                }
                for answer in answers
            ],
        }
    )


class Quality(BaseModel):
    """What held-out queries of the tenant, out-of-scope ones among them where it has them, say of
    answers at the threshold."""

    queries: int = Field(description="Held-out queries that the figures rest on.")
    share_answered: float
    expected_error: float = Field(
        description="Share of wrong best FAQs among those answered. The threshold was chosen on "
        "the same queries, which flatters it."
    )
    expected_error_bound: float = Field(
        description="Exact upper bound of the same, with 95% confidence."
    )


class DriftStatus(BaseModel):
    """Recent queries beside the held-out ones, as this replica has counted them."""

    queries: int = Field(description="Recent queries, the last 1,000 to 2,000 at most.")
    share_abstained: float | None = Field(description="Null before the first query.")
    psi: float | None = Field(
        description="Population stability index of the best scores; null without held-out "
        "queries to compare with, or before there are enough."
    )
    expected_psi: float | None = Field(description="The same by chance, nothing having changed.")
    drifted: bool = Field(
        description="Whether the index is above 0.25, and above what 1 in 1,000 unchanged "
        "samples would have."
    )


class ComparisonStatus(BaseModel):
    """What live bundle and candidate have answered to the same queries, as this replica has
    compared them."""

    queries: int
    same_best: float = Field(description="Share of them for which the same FAQ was best.")
    same_abstention: float = Field(description="Share for which both abstained, or neither.")
    mean_score_difference: float = Field(description="How far the best scores lie apart.")


class CandidateStatus(BaseModel):
    """A version that is tried beside the live one."""

    version: str
    mode: Mode = Field(
        description="`canary`: it answers its share of the requests. `shadow`: it is asked the "
        "same afterwards, and compared."
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
            "withdrawn" if key_of(tenant, "canary") in now.recalled else "refused"
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
    num_faqs: int
    threshold: float | None = Field(
        description="A query whose best score is below it is abstained from; null: none is."
    )
    quality: Quality | None = Field(description="Null where no labelled query was held out.")
    drift: DriftStatus
    candidate: CandidateStatus | None = Field(description="Null where none is tried.")

    @classmethod
    def of(cls, live: LiveTenant, now: Snapshot, found: Comparison | None) -> Self:
        """`found`: how its candidate compares."""
        calibration, shift = live.calibration, live.drift.read()
        return cls(
            tenant=live.manifest.tenant,
            adapter=AdapterVersion(
                name=live.manifest.adapter, version=live.manifest.version, form=live.form
            ),
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
    """Tenants not served because their adapter was withdrawn."""
    seconds_since_refresh: float


class ErrorBody(BaseModel):
    """`reason` is stable for machines. Never quotes a query."""

    reason: str
    message: str
