"""The HTTP interface's messages. Public: they appear in the OpenAPI description."""

from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from adapterdistill.manifest import NAME_PATTERN
from serve.engine import SearchAnswer, ServedAs

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

    `form` is what was served: the adapter itself, or a cheaper form that was made of it.
    """

    name: str
    version: str
    form: ServedAs = "adapter"


class RankedFaq(BaseModel):
    faq_id: str
    question: str
    answer: str | None
    score: float = Field(description="Cosine of the query and the FAQ's nearest vector.")


class SearchResult(BaseModel):
    """FAQs best first. If `abstained`, none is thought to answer the query."""

    ranked: list[RankedFaq]
    abstained: bool


class SearchResponse(BaseModel):
    """`results` in the order of the queries."""

    tenant: str
    adapter: AdapterVersion
    results: list[SearchResult]

    @classmethod
    def of(cls, answers: list[SearchAnswer]) -> Self:
        """The response to one request, whose answers come from one adapter version."""
        first = answers[0]
        assert {(a.tenant, a.version, a.form) for a in answers} == {
            (first.tenant, first.version, first.form)
        }
        return cls(
            tenant=first.tenant,
            adapter=AdapterVersion(name=first.adapter, version=first.version, form=first.form),
            results=[
                SearchResult(
                    ranked=[
                        RankedFaq(
                            faq_id=r.faq_id, question=r.question, answer=r.answer, score=r.score
                        )
                        for r in answer.ranked
                    ],
                    abstained=answer.abstained,
                )
                for answer in answers
            ],
        )


class TenantStatus(BaseModel):
    tenant: str
    adapter: AdapterVersion
    num_faqs: int


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
