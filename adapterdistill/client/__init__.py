"""Asks a search endpoint from Python: `Client`, and `AsyncClient` for asyncio.

    with Client("http://127.0.0.1:8000", tenant="acme", token_file="acme.token") as client:
        answer = client.search("where is my parcel?")

This package needs httpx alone, neither torch nor Ray: it imports nothing of `adapterdistill`, and
is a distribution of its own, too (`pyproject.toml` in this folder).
"""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx

# Relative: the package has two names (`pyproject.toml` in this folder).
from .answers import Answer, Classes, Faq, answers_of, classes_of  # noqa: TID252  # two names

__all__ = ["Answer", "AsyncClient", "Classes", "Client", "Faq", "SearchError", "SettingError"]

MAX_QUERIES = 64
"""Most questions or texts of one request; more are sent in several."""
_LONGEST_WAIT_S = 30.0
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class SettingError(ValueError):
    """The address or the token that a client was made with is unusable. It quotes no token."""


class SearchError(Exception):
    """The endpoint refused, or did not answer.

    reason: one word for programs, as docs/api.md lists them; "UNREACHABLE": there was no answer,
        "NOT_READY": the endpoint is starting, "NOT_A_SERVER": what answered is no AdapterDistill
        server.
    status: of the HTTP answer; None: there was none.
    retry_after_s: when the endpoint asks to try again; None: never, or it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason, self.status, self.retry_after_s = reason, status, retry_after_s


Found = TypeVar("Found", Answer, Classes)
Body = dict[str, Any]
Steps = Generator[Body | float, httpx.Response | None, list[Found]]
"""What to do next: post a body, and send the response in; or wait for some seconds."""


class _Endpoint:
    """What both clients share: requests, answers and when to try again. Sends nothing itself."""

    def __init__(
        self,
        address: str,
        tenant: str,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        """
        Args:
            address: a URL, or HOST:PORT.
            token, token_file: the tenant's token, or a file that holds it; neither: the endpoint
                asks for none.
            timeout_s: for each request.
            retries: how often a request is sent again that the endpoint is too busy for.

        Raises:
            SettingError: the address, the token or its file is unusable, or both a token and a
                file are given.
        """
        if token is not None and token_file is not None:
            raise SettingError("give token or token_file, not both")
        where = "token" if token_file is None else f"token_file {token_file}"
        if token_file is not None:
            token = _token_in(Path(token_file))
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            # httpx would quote it in its error.
            raise SettingError(
                f"{where}: not a token as `adapterdistill token new` prints it: expected visible "
                "ASCII characters without spaces"
            )
        try:
            url = httpx.URL(address if "://" in address else f"http://{address}")
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise SettingError(f"not an address: {address}: expected http://HOST:PORT")
        self._address, self._retries, self._timeout_s = address, retries, timeout_s
        path = f"{url.path.rstrip('/')}/v1/tenants/{quote(tenant, safe='')}"
        self._search_url = url.copy_with(raw_path=f"{path}/search".encode())
        self._classify_url = url.copy_with(raw_path=f"{path}/classify".encode())
        self._options: dict[str, Any] = {
            "timeout": timeout_s,
            "trust_env": url.host not in _THIS_MACHINE,  # no proxy is asked for it
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
        }

    def _searches(self, queries: Sequence[str], asked: Body) -> Steps[Answer]:
        return self._steps([{"queries": part, **asked} for part in _parts(queries)], answers_of)

    def _classifications(
        self, task: str, texts: Sequence[str], text_pairs: Sequence[str] | None, asked: Body
    ) -> Steps[Classes]:
        bodies: list[Body] = [{"task": task, "texts": part, **asked} for part in _parts(texts)]
        if text_pairs is not None:
            if len(text_pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts but {len(text_pairs)} text_pairs")
            for body, part in zip(bodies, _parts(text_pairs), strict=True):
                body["text_pairs"] = part
        return self._steps(bodies, classes_of)

    def _steps(
        self, bodies: Sequence[Body], read: Callable[[Mapping[str, Any]], list[Found]]
    ) -> Steps[Found]:
        answers: list[Found] = []
        for body in bodies:
            for left in reversed(range(self._retries + 1)):
                response = yield body
                assert response is not None
                found = _read(response, self._address, read)
                if not isinstance(found, SearchError):
                    answers += found
                    break
                if found.retry_after_s is None or not left:
                    raise found
                yield min(found.retry_after_s, _LONGEST_WAIT_S)
        return answers

    def _unreachable(self, error: httpx.HTTPError) -> SearchError:
        told = f"no answer from {self._address}: {_why(error, self._timeout_s)}"
        return SearchError(told, reason="UNREACHABLE")


class Client(_Endpoint):
    """Asks one tenant's FAQs. Thread-safe. Close it, or use it in a `with` statement."""

    def __init__(self, address: str, tenant: str, **options: Any) -> None:
        super().__init__(address, tenant, **options)
        self._http = httpx.Client(**self._options)

    def search(
        self,
        query: str,
        *,
        top_k: int = 5,
        explain: bool = False,
        alias: Literal["live", "canary"] | None = None,
    ) -> Answer:
        """Answer one question. Raises SearchError."""
        return self.search_all([query], top_k=top_k, explain=explain, alias=alias)[0]

    def search_all(
        self,
        queries: Sequence[str],
        *,
        top_k: int = 5,
        explain: bool = False,
        alias: Literal["live", "canary"] | None = None,
    ) -> list[Answer]:
        """Answer questions, in their order. Raises SearchError: none of them is answered."""
        return self._run(self._search_url, self._searches(queries, _asked(top_k, explain, alias)))

    def classify(
        self,
        task: str,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        top_k: int = 5,
        alias: Literal["live", "canary"] = "live",
    ) -> list[Classes]:
        """Classify texts, or pairs of texts, by a task that the tenant's bundle learnt.

        Raises:
            SearchError: none of them is classified.
            ValueError: there is not one of text_pairs for each of texts.
        """
        asked = {"top_k": top_k, "alias": alias}
        steps = self._classifications(task, texts, text_pairs, asked)
        return self._run(self._classify_url, steps)

    def _run(self, url: httpx.URL, steps: Steps[Found]) -> list[Found]:
        response = None
        try:
            while True:
                step = steps.send(response)
                if isinstance(step, float):
                    time.sleep(step)
                    response = None
                else:
                    response = self._http.post(url, json=step)
        except StopIteration as done:
            return list(done.value)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Endpoint):
    """The same as `Client`, for asyncio."""

    def __init__(self, address: str, tenant: str, **options: Any) -> None:
        super().__init__(address, tenant, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def search(
        self,
        query: str,
        *,
        top_k: int = 5,
        explain: bool = False,
        alias: Literal["live", "canary"] | None = None,
    ) -> Answer:
        """Answer one question. Raises SearchError."""
        [answer] = await self.search_all([query], top_k=top_k, explain=explain, alias=alias)
        return answer

    async def search_all(
        self,
        queries: Sequence[str],
        *,
        top_k: int = 5,
        explain: bool = False,
        alias: Literal["live", "canary"] | None = None,
    ) -> list[Answer]:
        """Answer questions, in their order. Raises SearchError: none of them is answered."""
        searches = self._searches(queries, _asked(top_k, explain, alias))
        return await self._run(self._search_url, searches)

    async def classify(
        self,
        task: str,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        top_k: int = 5,
        alias: Literal["live", "canary"] = "live",
    ) -> list[Classes]:
        """Classify texts, or pairs of texts, like `Client.classify`. Raises the same."""
        asked = {"top_k": top_k, "alias": alias}
        steps = self._classifications(task, texts, text_pairs, asked)
        return await self._run(self._classify_url, steps)

    async def _run(self, url: httpx.URL, steps: Steps[Found]) -> list[Found]:
        response = None
        try:
            while True:
                step = steps.send(response)
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    response = None
                else:
                    response = await self._http.post(url, json=step)
        except StopIteration as done:
            return list(done.value)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _token_in(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError as error:
        raise SettingError(
            f"token_file {file}: {error.strerror}: name the file that holds the tenant's token"
        ) from None


def _why(error: BaseException, timeout_s: float) -> str:
    """Why there was no answer, and what to do."""
    if isinstance(error, httpx.TimeoutException):
        return f"it took longer than {timeout_s:g} s: try again, or raise timeout_s"
    causes = [*_causes(error)]
    for kind, told in _CAUSES.items():
        if any(isinstance(cause, kind) for cause in causes):
            return told
    return "the connection failed: try again"


_CAUSES: Mapping[type[BaseException], str] = {
    socket.gaierror: "its host's name is unknown: correct the address",
    ConnectionRefusedError: "nothing listens there: start the endpoint, or correct the address",
    ssl.SSLCertVerificationError: "its certificate is not trusted here: name the file of its "
    "authority in the environment variable SSL_CERT_FILE",
    ssl.SSLError: "it does not speak TLS: does its address begin with http://?",
    httpx.ProxyError: "the proxy that the environment names refused",
    httpx.RemoteProtocolError: "what answers there does not speak HTTP: correct the address",
}
"""The first that is among an error's causes tells why, and what to do."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address of the host
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__


def _asked(top_k: int, explain: bool, alias: str | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"top_k": top_k}
    return asked | ({"explain": True} if explain else {}) | ({"alias": alias} if alias else {})


def _parts(texts: Sequence[str]) -> list[list[str]]:
    """The texts of each request."""
    starts = range(0, len(texts), MAX_QUERIES)
    return [list(texts[start : start + MAX_QUERIES]) for start in starts]


def _read(
    response: httpx.Response, address: str, read: Callable[[Mapping[str, Any]], list[Found]]
) -> list[Found] | SearchError:
    """The answers, or the refusal."""
    try:
        body = response.json()
        if response.is_success:
            return read(body)
        wait = response.headers.get("Retry-After")
        return SearchError(
            body["message"],
            reason=body["reason"],
            status=response.status_code,
            retry_after_s=float(wait) if wait else None,
        )
    except (ValueError, KeyError, TypeError):
        if response.status_code == 503 or "/-/routes" in response.text:  # the replicas' proxy
            return SearchError(
                f"{address} is not ready: it is starting, or none of its replicas answers; try "
                "again in some seconds",
                reason="NOT_READY",
                status=response.status_code,
                retry_after_s=1.0,
            )
        return SearchError(
            f"{address} is not an AdapterDistill server: it answered {response.status_code}",
            reason="NOT_A_SERVER",
            status=response.status_code,
        )
