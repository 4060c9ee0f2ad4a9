"""The drill of teachers that change between the moment when an owner lists them and its fetch."""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from adapterdistill.actors.teachers import Teachers, fetch_teachers
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import probe_sentences
from adapterdistill.drills.drill import Outcome, not_refused
from adapterdistill.drills.registry.acknowledged import OWNER, fsck_findings
from adapterdistill.manifest import EncoderRef, Manifest, VersionRef, sha256_hex
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.random_adapters import publish_adapter, random_adapters
from adapterdistill.testbed.registry import registry_process
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

NUM_TEACHERS = 3
_TIMEOUT_S = 30.0


def stale_teacher(folder: Path, draw: random.Random) -> Outcome:
    """Withdraw a teacher after it was listed; then change the owner's encoder."""
    root = folder / "registry"
    encoder = load_encoder(str(make_tiny_encoder(folder / "encoder")), dtype="float32")
    *adapters, newer, student = random_adapters(encoder, NUM_TEACHERS + 2)
    with (
        registry_process(root) as server,
        _Struck(server.address, timeout_s=_TIMEOUT_S) as client,
    ):
        taught = [
            publish_adapter(client, encoder, f"teacher-{n}", a) for n, a in enumerate(adapters)
        ]
        names = {ref.name for ref in taught}
        victim = draw.choice(taught)
        findings = _differing(_fetch(client, encoder), used=names)

        client.strike = lambda: client.withdraw(victim, "by the drill")
        began = time.monotonic()
        findings += _differing(_fetch(client, encoder), used=names - {victim.name})
        findings += not_refused(lambda: client.fetch(victim), "WITHDRAWN")
        # An owner that fetched it in time may no longer publish what it learnt.
        late = (client, encoder, OWNER, student, (victim.name,))
        findings += not_refused(lambda: publish_adapter(*late), "WITHDRAWN")
        again = publish_adapter(client, encoder, victim.tenant, newer)
        now = names - {victim.name} | {again.name}
        findings += _differing(_fetch(client, encoder), used=now)
        recovery_s = time.monotonic() - began

        client.encoder = encoder.ref.model_copy(
            update={draw.choice(("weights_sha256", "tokenizer_sha256")): draw.randbytes(32).hex()}
        )
        findings += _differing(_fetch(client, encoder), used=set(), refused=now)
        one = draw.choice(sorted(now))
        findings += not_refused(partial(client.fetch, VersionRef.parse(one)), "ENCODER_MISMATCH")
        client.encoder = None
        findings += _differing(_fetch(client, encoder), used=now)
    return Outcome(recovery_s, (*findings, *fsck_findings(root)))


class _Struck(RegistryClient):
    """A client with a fault between its listing and its fetch."""

    strike: Callable[[], object] | None = None
    """Done once."""
    encoder: EncoderRef | None = None
    """Another encoder that the owner has when it fetches."""

    def summaries(self, **chosen: Any) -> Iterator[Any]:
        yield from [*super().summaries(**chosen)]
        if self.strike is not None:
            strike, self.strike = self.strike, None
            strike()

    def fetch(self, ref: VersionRef, **options: Any) -> tuple[Manifest, bytes]:
        options["encoder"] = self.encoder or options.get("encoder")
        return super().fetch(ref, **options)


def _fetch(client: RegistryClient, encoder: Encoder) -> Teachers:
    rows = encoder.tokenize(probe_sentences())
    return fetch_teachers(client, encoder, tenant=OWNER, rows=rows, max_teachers=NUM_TEACHERS)


def _differing(
    found: Teachers, *, used: set[str], refused: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    """Findings where the teachers differ from the expected ones."""
    findings = []
    for name in sorted(used ^ set(found.payloads)):
        verb = "was not used" if name in used else "was used"
        findings.append(f"teacher {name} {verb}")
    for name, payload in found.payloads.items():
        if sha256_hex(payload) != VersionRef.parse(name).version:
            findings.append(f"teacher {name} came with another payload")
    if set(found.refused) != refused:
        findings.append(f"{len(found.refused)} teachers were refused, expected {len(refused)}")
    return findings
