"""Mutated uploads and calls against a real registry process, and their outcomes.

Nothing is sent through the registry's client: messages go out as bytes. What the registry accepts
is judged by `verify`, which shares no code with its admission.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adapterdistill.drills.drill import Outcome, reported
from adapterdistill.drills.registry.fuzz_calls import ACCEPTED, Party, listed, outcome
from adapterdistill.drills.registry.fuzz_cases import PUBLISH, Case, case
from adapterdistill.drills.registry.fuzz_statements import sealed, statement_fault_of
from adapterdistill.drills.registry.report import fuzz_sections
from adapterdistill.drills.registry.shrinking import smallest
from adapterdistill.drills.registry.verify import fault_of
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.testbed.crowd import TENANTS, tenant_name
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.registry import Federation, RegistryProcess, registry_process
from adapterdistill.testbed.reporting import Part

_AT_ONCE = 16
_SAMPLES = 100
_MOST_SHRUNK = 3
_SHOWN_BYTES = 1000
_SHRUNK_FROM = 10**6  # above the numbers of all cases
QUARANTINED = "accepted into quarantine"
FAILED, WRONGLY_ACCEPTED = "failures", "wrongly_accepted"
# A refusal names its reason; these mean that the registry failed instead of refusing.
_FAILURES = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")


Fault = tuple[str, str, str]
"""(key of the figures, kind of the case, words)"""


@dataclass
class Tally:
    """Outcomes of the cases so far."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, outcome)
    stored: dict[str, bytes] = field(default_factory=dict)  # name: manifest
    faults: dict[Fault, list[int]] = field(default_factory=dict)  # numbers of the cases

    def told(self, key: str) -> list[str]:
        """Each fault under this key by its case's number."""
        return [
            f"{number} ({kind}): {words}"
            for (its_key, kind, words), numbers in self.faults.items()
            for number in numbers
            if its_key == key
        ]


def fuzz(cases: int, *, seed: int) -> dict[str, Any]:
    """Send the cases of a seed; return the figures, with each failure by its case's number."""
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
            seconds = _throw(server, parties, cases, seed, tally, resident)
            cpu_s = server.cpu_s() - started_cpu_s
            alive = server.is_running()
            missing = _missing(parties, tally) if alive else ["the registry ended"]
            peak = server.peak_bytes()
            shrunk = [*_smallest(parties, tally, Path(folder))] if alive else []
        tracebacks = log.read_bytes().count(b"Traceback (most recent call last)")
    accepted = sum(n for (_, said), n in tally.outcomes.items() if said in (ACCEPTED, QUARANTINED))
    return {
        "cases": cases,
        "seed": seed,
        "seconds": round(seconds, 1),
        "server_cpu_s": round(cpu_s, 1),
        "outcomes": [
            {"kind": kind, "outcome": said, "cases": number}
            for (kind, said), number in sorted(tally.outcomes.items())
        ],
        "accepted": accepted,
        "versions": len(tally.stored),
        "wrongly_accepted": tally.told(WRONGLY_ACCEPTED),
        "failures": tally.told(FAILED),
        "smallest": shrunk,
        "accepted_but_missing": missing,
        "same_process_alive": alive,
        "tracebacks_logged": tracebacks,
        "memory": _memory(resident, peak),
    }


def _throw(
    server: RegistryProcess,
    parties: Sequence[Party],
    cases: int,
    seed: int,
    tally: Tally,
    resident: list[tuple[int, int]],
) -> float:
    """Send all cases, `_AT_ONCE` at a time; return the seconds that they took."""
    numbers, lock = iter(range(cases)), threading.Lock()
    every = max(1, cases // _SAMPLES)

    def work(done: Callable[[], None]) -> None:
        # Not grpc.aio: it forgets the reason of a refusal that comes while it still sends.
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            party, other = parties[number % TENANTS], parties[(number + 1) % TENANTS]
            one = _sealed(case(seed, number), party, other, Random(f"{seed} {number} statement"))
            said, responses = outcome(party.channel, one)
            with lock:
                _count(one, number, said, responses, party, tally)
                if number % every == 0 and server.is_running():
                    resident.append((number, server.resident_bytes()))
                done()

    started = time.perf_counter()
    with phase("fuzzing the registry", cases) as done, ThreadPoolExecutor(_AT_ONCE) as threads:
        for finished in [threads.submit(work, done) for _ in range(_AT_ONCE)]:
            finished.result()
    return time.perf_counter() - started


def _sealed(one: Case, party: Party, other: Party, draw: Random) -> Case:
    """The case with its upload's statement."""
    if one.method != PUBLISH:
        return one
    sent = sealed(one.messages, one.statement, party.signer, other.signer, draw)
    return replace(one, messages=sent)


def _count(
    one: Case, number: int, said: str, responses: list[bytes], party: Party, tally: Tally
) -> None:
    published = said == ACCEPTED and one.method == PUBLISH
    quarantined = published and _is_quarantined(responses[0])
    tally.outcomes[one.kind, QUARANTINED if quarantined else said] += 1
    if fault := _fault(one, said, responses, party):
        tally.faults.setdefault(fault, []).append(number)
    if published:
        header = pb.PublishRequest.FromString(one.messages[0]).header
        tally.stored[header.name] = header.manifest_json


def _is_quarantined(response: bytes) -> bool:
    state = pb.PublishResponse.FromString(response).version.state
    return bool(state == pb.VERSION_STATE_QUARANTINED)


def _fault(one: Case, said: str, responses: list[bytes], party: Party) -> Fault | None:
    """Name the fault in what became of a case, if there is one."""
    if said.startswith(_FAILURES) or said == "REGISTRY_ERROR":
        return FAILED, one.kind, f"{one.method}: {said}"
    if said != ACCEPTED and one.kind == "unmutated":
        return FAILED, one.kind, said
    if said != ACCEPTED or one.method != PUBLISH:
        return None
    parts = [pb.PublishRequest.FromString(message) for message in one.messages]
    header, payload = parts[0].header, b"".join(part.chunk.data for part in parts[1:])
    fault = fault_of(header.name, header.manifest_json, payload)
    fault = fault or statement_fault_of(header, party.signer)
    answer = pb.PublishResponse.FromString(responses[0]).version
    told = (answer.name, answer.manifest_json, answer.statement)
    if told != (header.name, header.manifest_json, header.statement):
        fault = fault or "the answer is of another version"
    return None if fault is None else (WRONGLY_ACCEPTED, one.kind, fault)


def _smallest(parties: Sequence[Party], tally: Tally, folder: Path) -> Iterator[dict[str, Any]]:
    """Shrink the first faults of a run."""
    for fault, (number, *_) in islice(tally.faults.items(), _MOST_SHRUNK):
        party, other = parties[number % TENANTS], parties[(number + 1) % TENANTS]

        def sent(one: Case, party: Party = party, other: Party = other) -> Case:
            return _sealed(one, party, other, Random(0))

        def fails(one: Case, party: Party = party, fault: Fault = fault) -> bool:
            said, responses = outcome(party.channel, sent(one))
            return _fault(one, said, responses, party) == fault

        if one := smallest(
            count(number + _SHRUNK_FROM * TENANTS, TENANTS), fails, folder / "hypothesis"
        ):
            yield {
                "fault": f"{number} ({fault[1]}): {fault[2]}",
                "method": one.method,
                "messages_hex": [message.hex()[: 2 * _SHOWN_BYTES] for message in one.messages],
            }


def _missing(parties: Sequence[Party], tally: Tally) -> list[str]:
    """Accepted versions that are not handed out as they came, and others that are listed."""
    found = []
    for name, manifest_json in tally.stored.items():
        request = pb.FetchRequest(name=name).SerializeToString()
        party = parties[int(name.split("/")[1].rpartition("-")[2])]
        said, responses = outcome(party.channel, Case("", "Fetch", (request,)))
        parts = [pb.FetchResponse.FromString(response) for response in responses]
        payload = b"".join(part.chunk.data for part in parts[1:])
        if said != ACCEPTED or fault_of(name, manifest_json, payload) is not None:
            found.append(f"{name}: {said}")
        elif parts[0].version.manifest_json != manifest_json:
            found.append(f"{name}: another manifest")
    there = {name for party in parties for name in listed(party.channel, party.signer.tenant)}
    found += [f"{name}: listed, never acknowledged" for name in there - set(tally.stored)]
    found += [f"{name}: not listed" for name in set(tally.stored) - there]
    return found


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
    _, found = reported(folder, "Registry fuzzed", fuzz_part(calls, seed))
    return replace(found, note=f"seed {seed}")
