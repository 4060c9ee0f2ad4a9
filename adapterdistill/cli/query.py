"""`adapterdistill query` asks a deployed search endpoint."""

import json
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired

import typer
from pydantic import Field, TypeAdapter, ValidationError
from rich.console import Console, RenderableType
from rich.text import Text
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    DeadlineExceededError,
    NoCandidateError,
    OverloadedError,
    ServingError,
    UnauthenticatedError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.manifest import is_name
from adapterdistill.serving.http import post

_PATIENCE_S = 20.0
"""How long an endpoint that is starting is asked again."""
DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class AliasName(StrEnum):
    """Values of `--alias`."""

    live = "live"
    canary = "canary"


def register(app: typer.Typer) -> None:
    """Add `query` to the root command."""
    app.command("query")(query)


def query(
    tenant: Annotated[str, typer.Argument(help="The tenant whose FAQs are searched.")],
    text: Annotated[str, typer.Argument(help="The question.")],
    address: Annotated[
        str,
        typer.Option(
            metavar="URL", help="Where `adapterdistill serve` listens: a URL or HOST:PORT."
        ),
    ] = DEFAULT_ADDRESS,
    top_k: Annotated[int, typer.Option(help="FAQs to show.", min=1, max=50)] = 5,
    alias: Annotated[
        AliasName | None,
        typer.Option(
            help="Which of the tenant's bundles answers: the live one, or the candidate of "
            "`adapterdistill release`. Default: the endpoint chooses, as for any user.",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also show how each view scores the FAQs."),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the tenant's token, if the server asks for one."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Certificate (PEM) of the authority that vouches for an https address. Default: "
            "those that this machine trusts.",
        ),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Ask a deployed tenant a question and show its ranked FAQs."""
    token = None if token_file is None else token_in(token_file)
    asked = partial(ask, address, tenant, text, top_k=top_k, alias=alias, token=token)
    answer = _once_ready(partial(asked, explain=explain, ca=ca))
    if output is Format.json:
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        Console().print(_table(answer))


def _once_ready(asked: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer; an endpoint that is starting is asked again for a while."""
    give_up, told = time.monotonic() + _PATIENCE_S, False
    while True:
        try:
            return asked()
        except ServingError as error:
            if error.retry_after_s is None or time.monotonic() >= give_up:
                raise
            if not told:
                typer.echo(f"{error}; waiting up to {_PATIENCE_S:.0f} s", err=True)
            told = True
            time.sleep(error.retry_after_s)


def token_in(path: Path) -> str:
    """The token in a file: an argument would be visible to everyone on the machine."""
    from adapterdistill.files import read_secret
    from adapterdistill.serve.tokens import PREFIX

    token = read_secret(path).decode("ascii", "replace").strip()
    if not token.startswith(PREFIX) or len(token.split()) != 1:
        raise ConfigError(f"{path}: not a token as `adapterdistill token new` prints it")
    return token


def ask(
    address: str,
    tenant: str,
    text: str,
    *,
    top_k: int = 5,
    alias: str | None = None,
    token: str | None = None,
    explain: bool = False,
    ca: Path | None = None,
) -> dict[str, Any]:
    """The server's answer to one question.

    Raises:
        ConfigError: the address, the tenant's name, the question or the file `ca` is malformed.
        UnauthenticatedError: the server refuses the token for this tenant.
        NoCandidateError: `alias` is "canary", and there is none.
        UnknownTenantError, WithdrawnError, OverloadedError, DeadlineExceededError: the server
            said so.
        ServingError: the server does not answer, or fails.
    """
    if not is_name(tenant):
        raise ConfigError("not a tenant name: expected lower-case letters, digits, . _ and -")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("the question is not valid UTF-8") from None
    asked: dict[str, Any] = {"query": text, "top_k": top_k}
    asked |= {} if alias is None else {"alias": alias}
    asked |= {"explain": True} if explain else {}
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    status, body = post(address, f"/v1/tenants/{tenant}/search", asked, headers, ca=ca)
    try:
        if status == 200:
            _ANSWER.validate_python(body)
            answer: dict[str, Any] = body
            return answer
        refusal = _REFUSAL.validate_python(body)
    except ValidationError:
        raise ServingError(
            f"{address} answered {status} with other JSON than an AdapterDistill server"
        ) from None
    if refusal["reason"] == NoCandidateError.reason:
        raise NoCandidateError(refusal["message"])
    raise _error_of(status, refusal["message"])


class _RankedFaq(TypedDict):
    faq_id: str
    question: str
    answer: str | None
    score: float
    views: NotRequired[dict[str, float | None] | None]


class _Result(TypedDict):
    ranked: Annotated[list[_RankedFaq], Field(min_length=1)]
    abstained: bool
    confidence: NotRequired[float | None]
    decided_by: NotRequired[str | None]


class _Adapter(TypedDict):
    name: str
    version: str
    form: str
    alias: NotRequired[str]


class _Answer(TypedDict):
    """What is shown of `serve.http.schema.SearchResponse`, whose module imports torch."""

    tenant: str
    adapter: _Adapter
    results: Annotated[list[_Result], Field(min_length=1, max_length=1)]


class _Refusal(TypedDict):
    reason: str
    message: str


_ANSWER, _REFUSAL = TypeAdapter(_Answer), TypeAdapter(_Refusal)


def _error_of(status: int, message: str) -> AdapterDistillError:
    classes: dict[int, type[AdapterDistillError]] = {
        401: UnauthenticatedError,
        404: UnknownTenantError,
        410: WithdrawnError,
        422: ConfigError,
        503: OverloadedError,
        504: DeadlineExceededError,
    }
    return classes.get(status, ServingError)(message or f"the server answered with status {status}")


def _table(answer: dict[str, Any]) -> RenderableType:
    [result] = answer["results"]
    adapter = f"adapter {answer['adapter']['name']} {answer['adapter']['version'][:12]}"
    variant = answer["adapter"]["form"]
    told = "" if variant == "adapter" else f", variant {variant}"
    told += "" if answer["adapter"].get("alias", "live") == "live" else " (canary)"
    columns = ("question", "answer", "faq_id")
    views = list(result["ranked"][0].get("views") or {})
    numbers = ("#", "score", *views)
    shown = table(
        *numbers,
        *columns,
        right=numbers,
        title=Text(f"{answer['tenant']}: {adapter}{told}"),
        caption=Text(_caption(result)),
    )
    for place, faq in enumerate(result["ranked"], start=1):
        # Text, not str: a tenant's brackets are not markup.
        cells = [Text(faq[name] or "-") for name in columns]
        scores = [faq["score"], *(faq["views"][name] for name in views)]
        shown.add_row(str(place), *map(_number, scores), *cells)
    return shown


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _caption(result: dict[str, Any]) -> str:
    told = ["abstained: no FAQ is close enough"] if result["abstained"] else []
    if result.get("confidence") is not None:
        told.append(f"the first is right with probability {result['confidence']:.2f}")
    if result.get("decided_by") is not None:
        told.append(f"the view {result['decided_by']} puts the first furthest ahead of the second")
    return "; ".join(told)
