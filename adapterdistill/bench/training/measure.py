"""Cost of a training step against the number of teachers, with the adapters library as the peer.

All rows are timed in turn, round after round, so that a change of the machine's load meets all of
them; every figure is relative to the own adapter's step of the same round's batch.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.adapters.interchange import from_library, to_library
from adapterdistill.backbone import DEFAULT_ENCODER, Encoder
from adapterdistill.backbone.packaged import PACKAGED
from adapterdistill.bench.training.peer import ADAPTERS, Peer, PeerUnavailableError, running, set_up
from adapterdistill.bench.training.steps import (
    FUSION,
    OWN,
    STAGE_2,
    STUDENT,
    build_steps,
    disagreement,
    wide_fusion,
)
from adapterdistill.distill.batches import Batch, TrainingRows, make_batch
from adapterdistill.distill.composition import FUSION_STEPS
from adapterdistill.sections import TrainingConfig
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import BOTTLENECK_SIZE, random_adapters

BATCH_SIZE = 32
TOLERANCE = 1e-5
PEER_OWN = "adapters library: own adapter"
PEER_FUSION = "adapters library: AdapterFusion"


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of step, one value a round."""

    kind: str
    count: int
    """Teachers; 0 where the step has none."""
    seconds: list[float]

    @property
    def figures(self) -> dict[str, float]:
        return {
            "min_s": round(min(self.seconds), 5),
            "median_s": round(statistics.median(self.seconds), 5),
        }


def measure_training(
    encoder: Encoder,
    exact: Encoder,
    rows: TrainingRows,
    *,
    counts: Sequence[int],
    rounds: int,
    peer_env: Path | None,
) -> dict[str, Any]:
    """Check equality, then time.

    Args:
        encoder: what is timed.
        exact: the same encoder in float32 on the CPU, for the checks.
        rows: one batch, its lengths as in the data.
        peer_env: folder of the peer's environment; None leaves the peer out.
    """
    chosen = list(range(len(rows.ids)))
    batch = make_batch(rows, chosen, device=encoder.device)
    teachers = random_adapters(exact, max(counts))
    found: dict[str, Any] = {
        "batch": {"rows": len(rows.ids), "tokens": batch.total_tokens},
        "bottleneck_size": BOTTLENECK_SIZE,
        "rounds": rounds,
        "equal_to_plain_formula": _check(exact, make_batch(rows, chosen), teachers, counts),
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory() as exchange:
        peer: Peer | None = None
        found["peer"] = {"skipped": "not asked for: name its environment's folder"}
        if peer_env is not None:
            try:
                python = set_up(peer_env, ADAPTERS)
                peer = stack.enter_context(running(python, ADAPTERS, Path(exchange) / "peer.log"))
                found["peer"] = _meet(peer, exact, rows, teachers, Path(exchange))
            except PeerUnavailableError as error:
                peer, found["peer"] = None, {"skipped": str(error)}
        timings = _time(encoder, batch, teachers, counts, rounds, peer)
    found["timings"] = _relative(timings)
    return found


def _check(
    exact: Encoder, batch: Batch, teachers: Sequence[BottleneckAdapter], counts: Sequence[int]
) -> dict[str, Any]:
    """Raises AssertionError where the factored formula is not the published one."""
    worst = {"outputs": 0.0, "gradients": 0.0}
    for count in counts:
        for name, value in disagreement(exact, teachers[:count], batch).items():
            worst[name] = max(worst[name], value)
    if max(worst.values()) > TOLERANCE:
        raise AssertionError(f"factored fusion differs from the plain formula: {worst}")
    return {"tolerance": TOLERANCE, **worst}


def _time(
    encoder: Encoder,
    batch: Batch,
    teachers: Sequence[BottleneckAdapter],
    counts: Sequence[int],
    rounds: int,
    peer: Peer | None,
) -> list[Timing]:
    own = build_steps(encoder, teachers[:1], batch)[OWN]
    timings = [Timing(OWN, 0, [])]
    steps = [own]
    for count in counts:
        for kind, step in build_steps(encoder, teachers[:count], batch).items():
            if kind != OWN:
                timings.append(Timing(kind, count, []))
                steps.append(step)
    asked: list[tuple[Timing, dict[str, Any]]] = []
    if peer is not None:
        asked = [(Timing(PEER_OWN, 0, []), {"kind": "own"})]
        asked += [(Timing(PEER_FUSION, n, []), {"kind": "fusion", "count": n}) for n in counts]
    with phase("timing rounds", rounds + 1) as done:
        for turn in range(rounds + 1):
            for timing, step in zip(timings, steps, strict=True):
                started = time.perf_counter()
                step()
                if encoder.device.type == "cuda":
                    torch.cuda.synchronize(encoder.device)
                if turn:  # the first is for warming up
                    timing.seconds.append(time.perf_counter() - started)
            for timing, command in asked:
                assert peer is not None
                seconds = peer.ask("step", **command)["seconds"]
                if turn:
                    timing.seconds.append(seconds)
            done()
    whole = [_stage_2(timings, count) for count in counts]
    return [*timings, *whole, *(timing for timing, _ in asked)]


def _stage_2(timings: Sequence[Timing], count: int) -> Timing:
    """All of stage 2 over its student updates: each bears its share of the fusion's training."""
    share = FUSION_STEPS / TrainingConfig().distil_steps
    seconds = {t.kind: t.seconds for t in timings if t.count == count}
    rounds = zip(seconds[STUDENT], seconds[FUSION], strict=True)
    return Timing(STAGE_2, count, [student + share * fusion for student, fusion in rounds])


def _relative(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Each row with its ratio to the own adapter's step on its side, by minima and by medians."""
    base = {t.kind: t.figures for t in timings if t.count == 0}
    found = []
    for timing in timings:
        of = base[PEER_OWN if timing.kind.startswith("adapters library") else OWN]
        figures = timing.figures
        found.append(
            {
                "kind": timing.kind,
                "teachers": timing.count,
                **figures,
                "ratio_of_minima": round(figures["min_s"] / of["min_s"], 3),
                "ratio_of_medians": round(figures["median_s"] / of["median_s"], 3),
                "spread": round(max(timing.seconds) / min(timing.seconds) - 1, 3),
            }
        )
    return found


def _meet(
    peer: Peer,
    exact: Encoder,
    rows: TrainingRows,
    teachers: Sequence[BottleneckAdapter],
    exchange: Path,
) -> dict[str, Any]:
    """Give the peer our weights and rows, and compare outputs, also of an adapter of its own."""
    names = [f"t{i}" for i in range(len(teachers))]
    weights: dict[str, torch.Tensor] = {}
    for name, teacher in zip(names, teachers, strict=True):
        weights |= to_library(teacher, name=name)
    safetensors.torch.save_file(weights, exchange / "adapters.safetensors")
    wire = {"ids": [list(ids) for ids in rows.ids], "labels": rows.labels.tolist()}
    (exchange / "rows.json").write_text(json.dumps(wire))
    versions = peer.ask(
        "start",
        threads=torch.get_num_threads(),
        model=str(PACKAGED[DEFAULT_ENCODER].folder()),
        adapters=names,
        bottleneck_size=BOTTLENECK_SIZE,
        weights=str(exchange / "adapters.safetensors"),
        rows=str(exchange / "rows.json"),
    )

    def theirs(**values: Any) -> torch.Tensor:
        peer.ask("embeddings", out=str(exchange / "out.safetensors"), **values)
        return safetensors.torch.load_file(exchange / "out.safetensors")["embeddings"]

    first, second = (exact.embed_ids(rows.ids, teacher) for teacher in teachers[:2])
    peer.ask("trained", steps=5, out=str(exchange / "trained.safetensors"))
    back = from_library(
        safetensors.torch.load_file(exchange / "trained.safetensors"), name="student"
    )
    batch = make_batch(rows, list(range(len(rows.ids))))
    count = min(4, len(teachers))
    fusion = wide_fusion(exact)
    state = _fusion_state(fusion, names[:count])
    safetensors.torch.save_file(state, exchange / "fusion.safetensors")
    stack = AdapterStack.of(teachers[:count])
    with torch.no_grad():
        fused = exact.embed(batch.tokens, lambda layer, x: fusion(layer, x, stack))
    checks = {
        "ours_loaded_there": _apart(theirs(adapter=names[0]), first),
        "theirs_loaded_here": _apart(theirs(adapter="student"), exact.embed_ids(rows.ids, back)),
        "fusion": _apart(theirs(fusion=str(exchange / "fusion.safetensors"), count=count), fused),
        "control_another_adapter": _apart(theirs(adapter=names[0]), second),
    }
    equal = max(checks[n] for n in ("ours_loaded_there", "theirs_loaded_here", "fusion"))
    if equal > TOLERANCE or checks["control_another_adapter"] < 100 * TOLERANCE:
        raise AssertionError(f"outputs are not those of the adapters library: {checks}")
    return {**versions, "largest_difference": checks, "tolerance": TOLERANCE}


def _fusion_state(fusion: Fusion, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The fusion under the library's names; its key bias, which changes nothing, stays zero."""
    parts = {
        "query.weight": fusion.query_weight,
        "query.bias": fusion.query_bias,
        "key.weight": fusion.key_weight,
        "value.weight": fusion.value_weight,
    }
    return {
        f"encoder.layer.{layer}.output.adapter_fusion_layer.{','.join(names)}.{name}": (
            weight[layer].detach().clone()
        )
        for name, weight in parts.items()
        for layer in range(len(weight))
    }


def _apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())
