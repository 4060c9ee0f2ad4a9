"""Mutated uploads and calls against a real registry process, and what became of them.

Nothing is sent through the registry's client: messages go out as bytes. What the registry accepts
is judged by `registry_verify`, which shares no code with its admission.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from adapterdistill.drills.drill import Outcome, reported
from adapterdistill.drills.registry.fuzz_cases import PUBLISH, SERVICE, Case, case
from adapterdistill.drills.registry.fuzz_statements import Signer, sealed, statement_fault_of
from adapterdistill.drills.registry.report import fuzz_sections
from adapterdistill.drills.registry.verify import fault_of
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.testbed.crowd import TENANTS, tenant_name
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.registry import Federation, RegistryProcess, registry_process
from adapterdistill.testbed.reporting import Part

_AT_ONCE = 16
_DEADLINE_S = 30.0
_ENDLESS_S = 0.2  # a call that streams until it is cancelled is left after this
_SAMPLES = 100
_DETAILS_KEY = "grpc-status-details-bin"
ACCEPTED = "accepted"
QUARANTINED = "accepted into quarantine"
# A refusal names its reason; these mean that the registry failed instead of refusing.
_FAILURES = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")


class Party:
    """A tenant's channel, and what it signs with."""

    def __init__(self, address: str, folder: Path) -> None:
        self._connection = Connection(address, folder)
        self.channel = self._connection.channel().grpc
        credentials = read_credentials(folder)
        self.signer = Signer(
            credentials.caller.name,
            credentials.signing_key,
            credentials.signing_certificate,
            credentials.certificate,
        )

    def __enter__(self) -> "Party":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


@dataclass
class Tally:
    """What became of the cases so far."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, outcome)
    stored: dict[str, bytes] = field(default_factory=dict)  # name: manifest
    failures: list[str] = field(default_factory=list)
    wrongly_accepted: list[str] = field(default_factory=list)


def fuzz(count: int, *, seed: int) -> dict[str, Any]:
    """`count` cases from `seed`; the figures, among which every failure by its case's number."""
    with TemporaryDirectory() as folder:
        federation, log = Federation(Path(folder)), Path(folder) / "log"
        with registry_process(federation.root, log=log) as server, ExitStack() as stack:
            parties = []
            for number in range(TENANTS):
                party = Party(server.address, federation.credentials(tenant_name(number)))
                parties.append(stack.enter_context(party))
            tally = Tally()
            resident = [(0, server.resident_bytes())]
            started_cpu_s = server.cpu_s()
            seconds = _throw(server, parties, count, seed, tally, resident)
            cpu_s = server.cpu_s() - started_cpu_s
            alive = server.is_running()
            missing = _missing(parties, tally) if alive else ["the registry ended"]
            peak = server.peak_bytes()
        tracebacks = log.read_bytes().count(b"Traceback (most recent call last)")
    accepted = sum(n for (_, said), n in tally.outcomes.items() if said in (ACCEPTED, QUARANTINED))
    return {
        "cases": count,
        "seed": seed,
        "seconds": round(seconds, 1),
        "server_cpu_s": round(cpu_s, 1),
        "outcomes": [
            {"kind": kind, "outcome": said, "cases": cases}
            for (kind, said), cases in sorted(tally.outcomes.items())
        ],
        "accepted": accepted,
        "versions": len(tally.stored),
        "wrongly_accepted": tally.wrongly_accepted,
        "failures": tally.failures,
        "accepted_but_missing": missing,
        "same_process_alive": alive,
        "tracebacks_logged": tracebacks,
        "memory": _memory(resident, peak),
    }


def _throw(
    server: RegistryProcess,
    parties: Sequence[Party],
    count: int,
    seed: int,
    tally: Tally,
    resident: list[tuple[int, int]],
) -> float:
    """Seconds that all cases took, `_AT_ONCE` at a time."""
    numbers, lock = iter(range(count)), threading.Lock()
    every = max(1, count // _SAMPLES)

    def work(done: Callable[[], None]) -> None:
        # Not grpc.aio: it forgets the reason of a refusal that comes while it still sends.
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            party, other = parties[number % TENANTS], parties[(number + 1) % TENANTS]
            one = case(seed, number)
            if one.method == PUBLISH:
                draw = Random(f"{seed} {number} statement")
                sent = sealed(one.messages, one.statement, party.signer, other.signer, draw)
                one = replace(one, messages=sent)
            said, responses = _outcome(party.channel, one)
            with lock:
                _count(one, number, said, responses, party, tally)
                if number % every == 0 and server.is_running():
                    resident.append((number, server.resident_bytes()))
                done()

    started = time.perf_counter()
    with phase("fuzzing the registry", count) as done, ThreadPoolExecutor(_AT_ONCE) as threads:
        for finished in [threads.submit(work, done) for _ in range(_AT_ONCE)]:
            finished.result()
    return time.perf_counter() - started


def _count(
    one: Case, number: int, said: str, responses: list[bytes], party: Party, tally: Tally
) -> None:
    quarantined = said == ACCEPTED and one.method == PUBLISH and _is_quarantined(responses[0])
    tally.outcomes[one.kind, QUARANTINED if quarantined else said] += 1
    if said.startswith(_FAILURES) or said == "REGISTRY_ERROR":
        tally.failures.append(f"{number} ({one.kind}, {one.method}): {said}")
    elif said != ACCEPTED and one.kind == "unmutated":
        tally.failures.append(f"{number} (unmutated): {said}")
    elif said == ACCEPTED and one.method == PUBLISH:
        _judge(one, number, responses, party, tally)


def _is_quarantined(response: bytes) -> bool:
    state = pb.PublishResponse.FromString(response).version.state
    return bool(state == pb.VERSION_STATE_QUARANTINED)


def _judge(one: Case, number: int, responses: list[bytes], party: Party, tally: Tally) -> None:
    parts = [pb.PublishRequest.FromString(message) for message in one.messages]
    header, payload = parts[0].header, b"".join(part.chunk.data for part in parts[1:])
    fault = fault_of(header.name, header.manifest_json, payload)
    fault = fault or statement_fault_of(header, party.signer)
    answer = pb.PublishResponse.FromString(responses[0]).version
    told = (answer.name, answer.manifest_json, answer.statement)
    if told != (header.name, header.manifest_json, header.statement):
        fault = fault or "the answer is of another version"
    if fault is not None:
        tally.wrongly_accepted.append(f"{number} ({one.kind}): {fault}")
    tally.stored[header.name] = header.manifest_json


def _outcome(channel: Any, one: Case) -> tuple[str, list[bytes]]:
    """ "accepted", the reason of the refusal, or the bare code of gRPC; and the answer."""
    endless = SERVICE.methods_by_name[one.method].server_streaming and one.method != "Fetch"
    call = channel.stream_stream(f"/{SERVICE.full_name}/{one.method}", None, None)(
        iter(one.messages), timeout=_ENDLESS_S if endless else _DEADLINE_S
    )
    responses: list[bytes] = []
    try:
        responses.extend(call)
    except grpc.RpcError as error:
        if endless and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ACCEPTED, responses
        return _reason(error), responses
    return ACCEPTED, responses


def _reason(error: Any) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return f"{error.code().name} (no reason)"


def _missing(parties: Sequence[Party], tally: Tally) -> list[str]:
    """Accepted versions that are not handed out as they came, and others that are listed."""
    found = []
    for name, manifest_json in tally.stored.items():
        request = pb.FetchRequest(name=name).SerializeToString()
        party = parties[int(name.split("/")[1].rpartition("-")[2])]
        said, responses = _outcome(party.channel, Case("", "Fetch", (request,)))
        parts = [pb.FetchResponse.FromString(response) for response in responses]
        payload = b"".join(part.chunk.data for part in parts[1:])
        if said != ACCEPTED or fault_of(name, manifest_json, payload) is not None:
            found.append(f"{name}: {said}")
        elif parts[0].version.manifest_json != manifest_json:
            found.append(f"{name}: another manifest")
    listed = {name for party in parties for name in _listed(party.channel, party.signer.tenant)}
    found += [f"{name}: listed, never acknowledged" for name in listed - set(tally.stored)]
    found += [f"{name}: not listed" for name in set(tally.stored) - listed]
    return found


def _listed(channel: Any, tenant: str) -> Iterator[str]:
    request = pb.ListVersionsRequest(
        filter=pb.VersionFilter(tenant=tenant), page_size=500, view=pb.VERSION_VIEW_SUMMARY
    )
    while True:
        one = Case("", "ListVersions", (request.SerializeToString(),))
        _, responses = _outcome(channel, one)
        page = pb.ListVersionsResponse.FromString(responses[0])
        for version in page.versions:
            yield version.name
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _memory(resident: list[tuple[int, int]], peak: int) -> dict[str, Any]:
    """Bytes; the slope is over the second half of the cases, in bytes a thousand of them."""
    later = resident[len(resident) // 2 :]
    numbers, values = zip(*later, strict=True)
    slope = float(np.polyfit(numbers, values, 1)[0]) if len(set(numbers)) > 1 else 0.0
    return {
        "at_start": resident[0][1],
        "at_half": later[0][1],
        "at_end": resident[-1][1],
        "peak": peak,
        "slope_a_thousand_cases": round(1000 * slope),
    }


def fuzz_faults(found: Mapping[str, Any]) -> Iterator[str]:
    """Whatever in these figures must not be."""
    fuzz = found["fuzz"]
    for key in ("wrongly_accepted", "failures", "accepted_but_missing"):
        yield from (f"{key.replace('_', ' ')}: {one}" for one in fuzz[key])
    if not fuzz["same_process_alive"]:
        yield "the registry ended"
    if fuzz["tracebacks_logged"]:
        yield f"{fuzz['tracebacks_logged']} tracebacks logged"


def fuzz_part(calls: int, seed: int) -> Part:
    return Part("fuzz", lambda: fuzz(calls, seed=seed), fuzz_sections, fuzz_faults)


def fuzz_registry(folder: Path, draw: Random, *, calls: int) -> Outcome:
    """Send it mutated uploads and calls."""
    seed = draw.randrange(2**31)
    _, outcome = reported(folder, "Registry fuzzed", fuzz_part(calls, seed))
    return replace(outcome, note=f"seed {seed}")
