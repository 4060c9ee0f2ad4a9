"""The drill of a search endpoint that somebody runs: one of its replicas is killed amid queries."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.named import Named, NamedServing
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.files import read_file, read_secret
from adapterdistill.ray_private import is_serve_replica

CLIENTS = 2
_PAUSE_S = 0.05
_LONGEST_WAIT_S = 2.0
_AFTERWARDS_S = 2.0
_RETRY_FOR_S = 30.0
_RECOVERED_WITHIN_S = 300.0
_TOLERANCE = 2e-4
"""Difference allowed between scores: in another batch the last digits may differ."""
Ask = Callable[[str], dict[str, Any] | None]
"""The answer to a query; None: not now."""


def kill_serve_replica(named: Named, draw: random.Random) -> Outcome:
    """Kill a replica through Ray; clients without an answer ask again.

    Raises:
        ConfigError: there are less than two replicas, so that the endpoint would fail its users.
        ServingError: Ray or the endpoint cannot be reached, or no replica replaces it.
    """
    assert named.serving is not None and named.ray is not None
    with _joined(named.ray.address), _asking(named.serving) as (ask, texts):
        replicas = _replicas()
        if len(replicas) < 2:
            raise ConfigError(
                f"the endpoint has {len(replicas)} replicas, and would fail its users: have two"
            )
        expected = {text: _answered(ask, text) for text in texts}
        ended = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            try:
                asked = [pool.submit(_compare, ask, expected, ended) for _ in range(CLIENTS)]
                time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
                recovery_s = _kill(draw.choice(sorted(replicas)), replicas)
                time.sleep(_AFTERWARDS_S)
            finally:
                ended.set()
        findings = [finding for one in asked for finding in one.result()]
    return Outcome(recovery_s, tuple(dict.fromkeys(findings)))


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    was_joined = ray.is_initialized()
    try:
        if not was_joined:
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError):
        raise ServingError(f"no Ray cluster at {address}") from None
    try:
        yield
    finally:
        if not was_joined:
            ray.shutdown()


def _replicas() -> set[str]:
    """Names of the endpoint's replicas, as Ray's actors."""
    from ray.util import list_named_actors

    from adapterdistill.serve.app import APP_NAME

    actors = list_named_actors(all_namespaces=True)
    return {a["name"] for a in actors if is_serve_replica(a["name"], APP_NAME)}


def _running() -> int:
    from ray import serve as ray_serve

    from adapterdistill.serve.app import APP_NAME

    deployments = ray_serve.status().applications[APP_NAME].deployments.values()
    states = (state for one in deployments for state in one.replica_states.items())
    return sum(count for state, count in states if state == "RUNNING")


def _kill(name: str, replicas: set[str]) -> float:
    """Kill the replica; return the seconds until another replaces it."""
    import ray

    ray.kill(ray.get_actor(name, namespace="serve"))
    began = time.monotonic()
    while not _replicas() - replicas or _running() < len(replicas):
        if time.monotonic() - began > _RECOVERED_WITHIN_S:
            raise ServingError(f"no replica replaced the killed one in {_RECOVERED_WITHIN_S:g} s")
        time.sleep(0.1)
    return time.monotonic() - began


@contextmanager
def _asking(serving: NamedServing) -> Iterator[tuple[Ask, list[str]]]:
    """A function that asks, and the questions."""
    try:
        lines = read_file(Path(serving.queries)).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{serving.queries}: expected a text file") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ConfigError(f"{serving.queries}: expected a question a line, and there is none")
    headers = {}
    if serving.token_file is not None:
        token = read_secret(Path(serving.token_file)).decode("ascii", "replace").strip()
        headers["Authorization"] = f"Bearer {token}"

    def ask(text: str) -> dict[str, Any] | None:
        body = {"query": text, "alias": "live"}
        try:
            response = client.post(f"/v1/tenants/{serving.tenant}/search", json=body)
        except httpx.HTTPError:
            return None
        if response.status_code >= 500:
            return None
        if response.status_code != 200:
            raise ServingError(f"the endpoint refuses a query with status {response.status_code}")
        answer: dict[str, Any] = response.json()
        return answer

    with httpx.Client(base_url=serving.address, headers=headers, timeout=_RETRY_FOR_S) as client:
        yield ask, texts


def _answered(ask: Ask, text: str) -> dict[str, Any]:
    """Ask as a client does: again while there is no answer."""
    began = time.monotonic()
    while (answer := ask(text)) is None:
        if time.monotonic() - began > _RETRY_FOR_S:
            raise ServingError(f"a query was not answered within {_RETRY_FOR_S:g} s")
        time.sleep(_PAUSE_S)
    return answer


def _compare(ask: Ask, expected: dict[str, dict[str, Any]], ended: threading.Event) -> list[str]:
    """Ask the same all the while; what is wrong with the answers, without their text."""
    findings = []
    while not ended.is_set():
        for text, right in expected.items():
            try:
                if fault := _fault(_answered(ask, text), right):
                    findings.append(f"a wrong answer: {fault}")
            except ServingError as error:
                findings.append(str(error))
            if ended.wait(_PAUSE_S):
                break
    return findings


def _fault(answer: dict[str, Any], right: dict[str, Any]) -> str | None:
    if (answer["tenant"], answer["adapter"]) != (right["tenant"], right["adapter"]):
        return "another adapter gave it (unless a version went live meanwhile)"
    [found], [wanted] = answer["results"], right["results"]
    scores = [one["score"] for one in found["ranked"]]
    wanted_scores = [one["score"] for one in wanted["ranked"]]
    pairs = zip(scores, wanted_scores, strict=False)
    if len(scores) != len(wanted_scores) or any(abs(a - b) > _TOLERANCE for a, b in pairs):
        return "its scores are others than before"
    if {one["faq_id"] for one in found["ranked"]} != {one["faq_id"] for one in wanted["ranked"]}:
        return "it ranks other FAQs than before"
    return None
