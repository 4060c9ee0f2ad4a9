"""The soak: a deployment that onboards and answers for a long time.

A Ray cluster, a registry and `adapterdistill serve` of its own on this machine, with an encoder of
random numbers: what is looked for grows with the number of onboardings and queries, which a small
encoder makes many. One tenant is onboarded after another while all that are live are asked at a
steady rate, and each answer is checked.
"""

import asyncio
import json
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapterdistill.backbone import load_encoder
from adapterdistill.drills.drill import REPORT, Outcome
from adapterdistill.drills.soak.report import aims, markdown, roles_over_time, told
from adapterdistill.drills.soak.samples import (
    TEMPORARY,
    Folders,
    Sample,
    bytes_in,
    count_files,
    live_actors,
    take_sample,
)
from adapterdistill.drills.soak.tenants import RESIDENTS, Onboardings, Tenants
from adapterdistill.testbed.answers import Question
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.http_load import ClientPool, load, percentiles
from adapterdistill.testbed.open_loop import send_on_time
from adapterdistill.testbed.owner_site import Site, site_in
from adapterdistill.testbed.processes import end, marked, processes_of
from adapterdistill.testbed.progress import say
from adapterdistill.testbed.reporting import Report, write_report
from adapterdistill.testbed.serving import deploy_on

EVERY_S = 5.0
"""Between two samples."""
_FIRST, _FIRST_CLIENTS = 4000, 128
"""Queries before the soak, many at once: a process keeps the memory of its busiest moment, which
then does not come during the soak."""
_SETTLED_SAMPLES = 5
_SETTLE_EVERY_S = 2.0
_MOST_SETTLE_SAMPLES = 60
_GRACE_S = 15.0


def soak_command(*, out: Path, minutes: float, rate_per_s: float) -> Report:
    """Set up, soak, stop; write samples.jsonl, soak.json and soak.md.

    Raises ServingError or TrainingError: the deployment does not come up.
    """
    # A short path: Ray's sockets are in it.
    with TemporaryDirectory(prefix="ad-", ignore_cleanup_errors=True) as name:
        return _soak_in(Path(name), out, minutes, rate_per_s)


def soak_drill(folder: Path, draw: random.Random, *, minutes: float, rate: float) -> Outcome:
    """Onboard and answer at once for a long time, and see what grows and what is left over."""
    found = _soak_in(folder, folder / REPORT, minutes, rate).figures
    missed = [one for one in found["aims"] if not one["met"]]
    return Outcome(
        None, tuple(f"{a['aim']}: {told(a['measured'])}, aimed at {a['aimed']}" for a in missed)
    )


def _soak_in(folder: Path, out: Path, minutes: float, rate_per_s: float) -> Report:
    out.mkdir(parents=True, exist_ok=True)
    folders = Folders(folder / "t", folder / "c" / "ray")
    folders.temporary.mkdir()
    before = count_files(folders)
    try:
        with marked(str(folders.temporary)):
            found = _deploy_and_soak(folder, folders, out, minutes, rate_per_s)
    finally:
        left = end(processes_of(str(folders.temporary)), grace_s=_GRACE_S)
    after = count_files(folders)
    found["left"] = {
        "processes": left,
        TEMPORARY: after[TEMPORARY] - before[TEMPORARY],
    }
    found["aims"] = list(aims(found))
    return write_report(out, found, markdown(found), name="soak")


def _deploy_and_soak(
    folder: Path, folders: Folders, out: Path, minutes: float, rate_per_s: float
) -> dict[str, Any]:
    found: dict[str, Any] = {"benchmark": "soak", "minutes": minutes, "rate_per_s": rate_per_s}
    store = folder / "soak" / "serving"
    say("starting a cluster and a registry")
    with site_in(folder, dashboard=True) as site:
        encoder = load_encoder(str(folder / "encoder"), dtype="float32")
        found["environment"] = environment(encoder)
        tenants = Tenants(store, encoder)
        onboardings = Onboardings(site, tenants)
        for _ in range(RESIDENTS):
            onboardings.next()
            say(f"onboarded {onboardings.done} of {RESIDENTS} tenants that stay")
        kept = (folder / "registry", store, onboardings.workspace)
        address = deploy_on(
            site.cluster, store, encoder=str(folder / "encoder"), registry=site.registry
        )
        draw = random.Random(14)
        first = [tenants.draw(draw).http for _ in range(_FIRST)]
        asyncio.run(load(address, first, num_clients=_FIRST_CLIENTS, seconds=2 * EVERY_S))
        asked = Asked()
        idle = {"before": _idle(site, folders)}
        kept_bytes = [bytes_in([one]) for one in kept]
        say(f"soaking for {minutes:g} minutes")
        already = onboardings.done
        onboardings.start()
        began = time.monotonic()
        with (out / "samples.jsonl").open("w") as file:

            def sample(at_s: float) -> None:
                taken = take_sample(at_s, folders)
                file.write(json.dumps(taken.as_json()) + "\n")

            try:
                soak(address, tenants, sample, asked, seconds=60 * minutes, rate_per_s=rate_per_s)
            finally:
                onboardings.stop()
        found["seconds"] = round(time.monotonic() - began, 1)
        idle["after"] = _idle(site, folders)
        grown = [bytes_in([one]) for one in kept]
    samples = [*_samples_in(out / "samples.jsonl")]
    number = onboardings.done - already
    return found | {
        "onboardings": {
            "done": number,
            "failed": onboardings.failed,
            "seconds": [round(one, 1) for one in onboardings.seconds[already:]],
        },
        "queries": asked.figures(),
        "roles": roles_over_time(samples),
        "most_workers": _most(samples),
        "idle": idle,
        "kept_bytes": {
            name: {"before": one, "after": other}
            for name, one, other in zip(
                ("registry", "serving store", "owners' workspaces"), kept_bytes, grown, strict=True
            )
        },
    }


@dataclass
class Asked:
    """Outcomes of the queries."""

    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds of answers, a number each, so that hours of them take little memory."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Queries by status; "no answer" where a connection broke."""
    wrong: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        return {
            "requests": self.statuses.total(),
            "statuses": dict(sorted(self.statuses.items())),
            "wrong": dict(self.wrong),
            **percentiles(self.seconds or [float("nan")]),
        }


def soak(
    address: str,
    tenants: Tenants,
    sample: Callable[[float], object],
    asked: Asked,
    *,
    seconds: float,
    rate_per_s: float,
    every_s: float = EVERY_S,
) -> None:
    """Ask at a steady rate; between samples see what is live, and `sample` every `every_s`.

    Connections are kept between two samples; then new ones are made, as clients do.
    """
    draw, began = random.Random(13), time.monotonic()
    while (at_s := time.monotonic() - began) < seconds:
        sample(at_s)
        tenants.follow()
        window_s = min(every_s, seconds - at_s)
        count = max(1, round(rate_per_s * window_s))
        questions = (tenants.draw(draw) for _ in range(count))  # drawn when they are asked
        asyncio.run(_ask(address, tenants, questions, asked, rate_per_s))
    sample(time.monotonic() - began)


async def _ask(
    address: str,
    tenants: Tenants,
    questions: Iterable[Question],
    asked: Asked,
    rate_per_s: float,
) -> None:
    pool = ClientPool(address)

    async def ask(question: Question, _: float) -> None:
        try:
            reply = await pool.ask(question.http)
        except OSError:
            asked.statuses["no answer"] += 1
            return
        asked.statuses[str(reply.status)] += 1
        if reply.status == 200:
            asked.seconds.append(reply.seconds)
            if fault := tenants.fault(question, reply):
                asked.wrong[fault] += 1

    timed = ((place / rate_per_s, one) for place, one in enumerate(questions))
    await send_on_time(timed, ask)
    pool.close()


def _idle(site: Site, folders: Folders) -> dict[str, Any]:
    """The deployment at rest: nobody queries it, and no process starts or ends."""
    recent: list[Sample] = []
    for _ in range(_MOST_SETTLE_SAMPLES):
        recent = [*recent[1 - _SETTLED_SAMPLES :], take_sample(0.0, folders)]
        counts = [{r: held.processes for r, held in one.roles.items()} for one in recent]
        if len(recent) == _SETTLED_SAMPLES and all(one == counts[0] for one in counts):
            break
        time.sleep(_SETTLE_EVERY_S)
    last = recent[-1]
    return {
        "roles": {role: asdict(held) for role, held in sorted(last.roles.items())},
        "actors": live_actors(site.cluster),
        "files": dict(last.files),
    }


def _samples_in(path: Path) -> Iterator[Sample]:
    for line in path.read_text().splitlines():
        yield Sample.of_json(json.loads(line))


def _most(samples: Sequence[Sample]) -> dict[str, int]:
    """The most of each kind of Ray's workers at a time."""
    most: Counter[str] = Counter()
    for one in samples:
        most |= Counter(one.workers)
    return dict(sorted(most.items()))
