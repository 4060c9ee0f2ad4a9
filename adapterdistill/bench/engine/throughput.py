"""Throughput of the serving engine with many tenants resident, beside what users run instead.

All sides embed the same texts in turn, round after round, so that a change of the machine's load
meets all of them; ratios are of one round's batch, and their median is reported. Every batch is run
once before it is timed: products compile for the shapes that they meet. Beside the clock stands the
processor's time, which other processes on the machine lengthen less.
"""

import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine.checks import check_equality, compare_top1
from adapterdistill.bench.engine.fairness import measure_fairness
from adapterdistill.bench.engine.floor import floor
from adapterdistill.bench.engine.sides import (
    MIXED,
    MIXES,
    Side,
    draw_batch,
    meet,
    our_sides,
    peer_sides,
)
from adapterdistill.bench.training.peer import SENTENCES, PeerUnavailableError, running, set_up
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.testbed.faq_banks import Bank, fill_store
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import random_adapters


@dataclass(frozen=True)
class Size:
    """How much is run."""

    name: str
    tenants: int
    adapters: int
    """Different ones; tenants have them in turn, each in a slot of its own."""
    rounds: int
    batch_sizes: tuple[int, ...]
    mixes: tuple[str, ...]
    asked: int
    """Texts whose best FAQ is compared between the dtypes."""
    flood_rounds: int
    flood_s: float
    """Seconds of a round with a flood, and of one without."""


SIZES = {
    "tiny": Size("tiny", 10, 3, 2, (6,), MIXES, 20, 1, 0.3),
    "quick": Size("quick", 668, 8, 9, (32,), MIXES, 1000, 3, 3.0),
    "standard": Size("standard", 668, 16, 21, (32, 128), MIXES, 20000, 7, 10.0),
}


@dataclass
class Cell:
    """One batch size and mix: seconds by side, one value a round."""

    mix: str
    size: int
    seconds: dict[str, list[float]]
    processor_s: dict[str, list[float]]
    tokens: list[int] = field(default_factory=list)
    tenants: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Medians, and every side's time over the mixed batch's of the same round."""
        sides = {
            name: {
                "min_ms": round(1000 * min(seconds), 3),
                "median_ms": round(1000 * statistics.median(seconds), 3),
                "texts_per_s": round(self.size / statistics.median(seconds), 1),
                "mixed_is_times_as_fast": _times(seconds, self.seconds[MIXED]),
                "processor_median_ms": round(1000 * statistics.median(self.processor_s[name]), 3),
                "mixed_is_times_as_cheap": _times(self.processor_s[name], self.processor_s[MIXED]),
            }
            for name, seconds in self.seconds.items()
        }
        return {
            "mix": self.mix,
            "batch": self.size,
            "median_tokens": statistics.median(self.tokens),
            "median_tenants": statistics.median(self.tenants),
            "sides": sides,
        }


def _times(seconds: Sequence[float], mixed: Sequence[float]) -> float:
    """The median over rounds of one side's time over the mixed batch's."""
    return round(statistics.median(s / m for s, m in zip(seconds, mixed, strict=True)), 3)


def measure_engine(
    encoder: Encoder,
    exact: Encoder,
    banks: Sequence[Bank],
    size: Size,
    *,
    peer_env: Path | None,
) -> dict[str, Any]:
    """Check equality, compare the dtypes' answers, then time.

    Args:
        encoder: what is timed.
        exact: the same encoder in float32 on the CPU.
        banks: the tenants, all of which are resident.
        peer_env: folder of sentence-transformers' environment; None leaves it out.
    """
    adapters = random_adapters(exact, size.adapters)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        fill_store(store, banks, exact, adapters)
        engine, exact_engine = (_loaded(e, store, banks) for e in (encoder, exact))
        found: dict[str, Any] = {
            "tenants_resident": len(banks),
            "rounds": size.rounds,
            "equality": check_equality(exact, exact_engine, banks, adapters),
            "top1": compare_top1(engine, exact_engine, banks, size.asked),
        }
        found["fairness"] = measure_fairness(
            engine, banks, rounds=size.flood_rounds, seconds=size.flood_s
        )
        sides = our_sides(encoder, engine)
        found["peer"] = {"skipped": "not asked for: name its environment's folder"}
        if peer_env is not None:
            try:
                python = set_up(peer_env, SENTENCES)
                log = Path(folder) / "peer.log"
                peer = stack.enter_context(running(python, SENTENCES, log))
                found["peer"] = meet(peer, exact, banks, Path(folder))
                sides |= peer_sides(peer)
            except PeerUnavailableError as error:
                found["peer"] = {"skipped": str(error)}
        cells = _time(encoder, banks, sides, size)
        found["timings"] = [cell.figures() for cell in cells]
        found["floor"] = floor(encoder, engine.banks.loaded[0].stack, found["timings"])
    return found


def _loaded(encoder: Encoder, store: Path, banks: Sequence[Bank]) -> Engine:
    engine = Engine(encoder, store, capacity=len(banks))
    assert len(engine.refresh().loaded) == len(banks)
    return engine


def _time(
    encoder: Encoder, banks: Sequence[Bank], sides: Mapping[str, Side], size: Size
) -> list[Cell]:
    draw = random.Random(0)
    cells = [
        Cell(mix, count, {name: [] for name in sides}, {name: [] for name in sides})
        for count in size.batch_sizes
        for mix in size.mixes
    ]
    with phase("timing rounds", size.rounds) as done:
        for _ in range(size.rounds):
            for cell in cells:
                batch = draw_batch(cell.mix, cell.size, banks, draw)
                cell.tokens.append(sum(map(len, encoder.tokenize(batch.texts))))
                cell.tenants.append(len(set(batch.tenants)))
                names = list(sides)
                draw.shuffle(names)
                for warm in (False, True):
                    for name in names:
                        seconds, processor_s = sides[name](batch)
                        if warm:
                            cell.seconds[name].append(seconds)
                            cell.processor_s[name].append(processor_s)
            done()
    return cells
