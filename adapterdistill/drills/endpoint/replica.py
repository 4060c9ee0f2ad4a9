"""The drill of the search endpoint: one of its replicas is killed amid queries."""

import random
import time
from importlib.resources import files
from pathlib import Path

import torch

from adapterdistill.backbone import load_encoder
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.endpoint.kill import measure_kill
from adapterdistill.testbed.answers import Answers
from adapterdistill.testbed.faq_banks import fill_store, read_banks
from adapterdistill.testbed.random_adapters import STRENGTH, random_adapters
from adapterdistill.testbed.serving import deployed
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

REPLICAS, NUM_TENANTS = 2, 4
SECONDS = 8.0
_LONGEST_WAIT_S = 2.0


def kill_serve_replica(folder: Path, draw: random.Random) -> Outcome:
    """kill -9 of one of two replicas; clients ask again where a connection breaks."""
    name, store = str(make_tiny_encoder(folder / "encoder")), folder / "store"
    encoder = load_encoder(name, dtype="float32")
    banks = read_banks(Path(str(files("adapterdistill"))) / "samples", NUM_TENANTS)
    # Stronger than elsewhere, so that adapters differ on the tiny encoder too.
    adapters = random_adapters(encoder, NUM_TENANTS, strength=10 * STRENGTH)
    fill_store(store, banks, encoder, adapters)
    answers = Answers(banks, store, encoder)
    with deployed(
        store,
        folder / "log",
        encoder=name,
        dtype="float32",
        threads=torch.get_num_threads(),
        haproxy=True,
        replicas=REPLICAS,
    ) as server:

        def kill() -> None:
            time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
            server.kill_a_replica()

        found = measure_kill(
            server.address, banks, answers, kill, replicas=REPLICAS, seconds=SECONDS
        )
    findings = [f"a wrong answer: it {fault}" for fault in found["wrong"]]
    if found["failed_after_retries"]:
        findings.append(f"{found['failed_after_retries']} queries failed for good")
    return Outcome(found["seconds_until_full_service"], tuple(findings))
