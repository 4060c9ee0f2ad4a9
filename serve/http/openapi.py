"""What the OpenAPI description says beside the models: refusals, examples, tokens and tags."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI

from adapterdistill.serve.http.fault_words import MUST_BE
from adapterdistill.serve.http.schema import ErrorBody

TAGS: list[dict[str, Any]] = [
    {"name": "search", "description": "Questions to a tenant's FAQs."},
    {"name": "state", "description": "What a tenant is served by, and how a replica is."},
]


class Refusal(NamedTuple):
    """A reason for which a request is refused, with an example of its message."""

    status: int
    reason: str
    when: str
    message: str


REFUSALS = (
    Refusal(
        401,
        "UNAUTHENTICATED",
        "No valid token for this tenant, if the deployment has tokens.",
        "a valid bearer token for this path is needed",
    ),
    Refusal(404, "UNKNOWN_TENANT", "No adapter is live for the tenant.", "no live adapter: acme"),
    Refusal(
        404,
        "NO_CANDIDATE",
        "The canary is asked for, and there is none.",
        "tenant acme has no candidate",
    ),
    Refusal(
        404,
        "UNKNOWN_TASK",
        "The tenant's bundle does not answer this task.",
        "tenant acme is not served by a model of this task; its tasks: none",
    ),
    Refusal(
        404,
        "NO_FEEDBACK",
        "The deployment keeps no feedback.",
        "this deployment keeps no feedback: see `serve --feedback`",
    ),
    Refusal(410, "WITHDRAWN", "The tenant's adapter was withdrawn.", "the version is withdrawn"),
    Refusal(
        413,
        "REQUEST_TOO_LARGE",
        "The body is larger than any sound one.",
        "a body has at most 2097152 bytes",
    ),
    Refusal(
        422,
        "INVALID_REQUEST",
        "The request is malformed, empty or too long; the message names the field and its bounds.",
        f"top_k must be {MUST_BE['top_k']}",
    ),
    Refusal(
        503,
        "OVERLOADED",
        "Too many queries wait, or the replica stops.",
        "too many queries are waiting: try again later",
    ),
    Refusal(
        504,
        "DEADLINE_EXCEEDED",
        "The request waited for too long.",
        "the request waited for 10 s and was given up",
    ),
)
_RETRY = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "The scheme.", "schema": {"type": "string"}}},
    503: _RETRY,
    504: _RETRY,
}


def refusals(*, without: Sequence[str] = ()) -> dict[int | str, dict[str, Any]]:
    """The refusals of an operation, as FastAPI takes them, but for some reasons."""
    responses: dict[int | str, dict[str, Any]] = {}
    for one in REFUSALS:
        if one.reason in without:
            continue
        said = responses.setdefault(one.status, {"model": ErrorBody, "description": ""})
        said["description"] = f"{said['description']} `{one.reason}`: {one.when}".strip()
        content = said.setdefault("content", {"application/json": {"examples": {}}})
        content["application/json"]["examples"][one.reason] = {
            "value": {"reason": one.reason, "message": one.message}
        }
        if one.status in _HEADERS:
            said["headers"] = _HEADERS[one.status]
    return responses


SEARCH_EXAMPLES: dict[str, Any] = {
    "one": {"summary": "One question", "value": {"query": "When are you open?", "top_k": 3}},
    "several": {
        "summary": "Several questions",
        "value": {"queries": ["When are you open?", "How do I pay?"]},
    },
}
FEEDBACK_EXAMPLES: dict[str, Any] = {
    "right": {
        "summary": "The FAQ that answers a question",
        "value": {"query": "Do you open on Sunday?", "verdict": "right", "faq_id": "opening-hours"},
    },
    "out_of_scope": {
        "summary": "A question that no FAQ answers",
        "value": {"query": "Who won the match?", "verdict": "out_of_scope"},
    },
}
ANSWER_EXAMPLE: dict[str, Any] = {
    "tenant": "acme",
    "adapter": {"name": "faq", "version": "ab12" * 16, "form": "adapter", "alias": "live"},
    "results": [
        {
            "ranked": [
                {
                    "faq_id": "opening-hours",
                    "question": "What are your opening hours?",
                    "answer": "From nine to five.",
                    "score": 0.83,
                }
            ],
            "abstained": False,
            "confidence": 0.97,
        }
    ],
}
CLASSIFY_EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Single texts",
        "value": {"task": "sentiment", "texts": ["It works.", "It broke at once."], "top_k": 1},
    },
    "pairs": {
        "summary": "A pair of texts",
        "value": {
            "task": "same_question",
            "texts": ["When are you open?"],
            "text_pairs": ["What are your opening hours?"],
        },
    },
}
CLASSES_EXAMPLE: dict[str, Any] = {
    "tenant": "acme",
    "adapter": {"name": "faq", "version": "ab12" * 16, "form": "multitask_kd", "alias": "live"},
    "task": "same_question",
    "results": [
        {
            "ranked": [
                {"label": "yes", "probability": 0.91},
                {"label": "no", "probability": 0.09},
            ]
        }
    ],
}


def security(*, required: bool) -> dict[str, Any]:
    """What an operation of a tenant says of tokens."""
    schemes: list[dict[str, list[str]]] = [{"token": []}]
    return {"security": schemes if required else [{}, *schemes]}


def describe_tokens(api: FastAPI) -> None:
    """Add the tokens' scheme to the description that the app makes of itself."""
    by_fastapi = api.openapi

    def described() -> dict[str, Any]:
        description = by_fastapi()
        description["components"]["securitySchemes"] = {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A tenant's token, as `adapterdistill token new` prints it.",
            }
        }
        return description

    # FastAPI's documented way to extend the description.
    api.openapi = described  # type: ignore[method-assign]
