"""`POST /v1/tenants/TENANT/classify`: classes of texts, by a task that the bundle learnt."""

from typing import Annotated, Any, Self

from fastapi import Body, FastAPI, Path, Request
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from adapterdistill.serve.engine.items import ClassifyAnswer
from adapterdistill.serve.engine.live import Alias
from adapterdistill.serve.http import openapi
from adapterdistill.serve.http.content_type import check_content_type
from adapterdistill.serve.http.schema import (
    MAX_QUERIES,
    MAX_TOP_K,
    AdapterVersion,
    QueryText,
    TenantName,
    whole,
)
from adapterdistill.serve.queue.request_context import context_of
from adapterdistill.serve.queue.searching import Searcher

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]


class ClassifyRequest(BaseModel):
    """Texts for one of the tenant's tasks."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    task: TaskName = Field(description="Name of the task, like its file in the folder `tasks`.")
    texts: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)]
    text_pairs: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)] | None = (
        Field(
            default=None,
            description="The second text of each of `texts`, for a task of pairs and for no other.",
        )
    )
    top_k: Annotated[int, BeforeValidator(whole)] = Field(
        default=5, ge=1, le=MAX_TOP_K, strict=True, description="Classes of each answer."
    )
    alias: Alias = Field(default="live", description="`canary`: the candidate answers.")

    @model_validator(mode="after")
    def _a_pair_for_each_text(self) -> Self:
        if self.text_pairs is not None and len(self.text_pairs) != len(self.texts):
            raise PydanticCustomError("text_pairs", "give one of text_pairs for each of texts")
        return self


class RankedClass(BaseModel):
    label: str
    probability: float = Field(description="Softmax of the model's outputs; not calibrated.")


class ClassifyResult(BaseModel):
    """Classes, most probable first."""

    ranked: list[RankedClass]


class ClassifyResponse(BaseModel):
    """The classes; `results` are in the order of the texts."""

    tenant: str
    adapter: AdapterVersion
    task: str
    results: list[ClassifyResult]

    @classmethod
    def of(cls, answers: list[ClassifyAnswer]) -> Self:
        """The response to one request, whose answers come from one bundle."""
        first = answers[0]
        return cls(
            tenant=first.tenant,
            adapter=AdapterVersion(
                name=first.adapter, version=first.version, form=first.variant, alias=first.alias
            ),
            task=first.task,
            results=[
                ClassifyResult(
                    ranked=[
                        RankedClass(label=one.label, probability=one.probability)
                        for one in answer.ranked
                    ]
                )
                for answer in answers
            ],
        )


def add_classify(api: FastAPI, searcher: Searcher, *, guarded: dict[str, Any]) -> None:
    """Add the operation to the app."""

    @api.post(
        "/v1/tenants/{tenant}/classify",
        operation_id="classify",
        tags=["search"],
        responses=openapi.refusals(without=["NO_FEEDBACK"])
        | {200: {"content": {"application/json": {"example": openapi.CLASSES_EXAMPLE}}}},
        openapi_extra=guarded,
    )
    async def classify(
        tenant: Annotated[
            TenantName,
            Path(description="Name of the tenant.", openapi_examples={"acme": {"value": "acme"}}),
        ],
        body: Annotated[ClassifyRequest, Body(openapi_examples=openapi.CLASSIFY_EXAMPLES)],
        request: Request,
    ) -> ClassifyResponse:
        """Classify texts, or pairs of texts, by one of the tenant's tasks."""
        check_content_type(request)
        answers = await searcher.classify(
            context_of(request.scope),
            tenant,
            body.task,
            body.texts,
            body.text_pairs,
            body.top_k,
            body.alias,
        )
        return ClassifyResponse.of(answers)
