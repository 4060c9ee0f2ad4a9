"""Checks before anything is timed: each row has its own adapter, answers agree with float32."""

import random
from collections.abc import Sequence

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine.sides import MIXES, TOLERANCE, draw_batch, embed_mixed
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.progress import phase


def check_equality(
    exact: Encoder, engine: Engine, banks: Sequence[Bank], adapters: Sequence[BottleneckAdapter]
) -> dict[str, float]:
    """Raises AssertionError where a row of a mixed batch is not its own adapter's."""
    worst, control = 0.0, 2.0
    place_of = {bank.tenant: place for place, bank in enumerate(banks)}
    for mix in MIXES:
        batch = draw_batch(mix, 64, banks, random.Random(1))
        found = embed_mixed(exact, engine, batch)
        for row, (tenant, text) in enumerate(zip(batch.tenants, batch.texts, strict=True)):
            own = place_of[tenant] % len(adapters)
            alone, other = (
                exact.embed_texts([text], adapters[n])[0] for n in (own, (own + 1) % len(adapters))
            )
            worst = max(worst, float((found[row] - alone).abs().max()))
            control = min(control, float((found[row] - other).abs().max()))
    if worst > TOLERANCE or control < 100 * TOLERANCE:
        raise AssertionError(f"mixed rows are not each adapter's alone: {worst}, {control}")
    return {"largest_difference": worst, "control_another_adapter": control}


def compare_top1(
    engine: Engine, exact: Engine, banks: Sequence[Bank], count: int
) -> dict[str, float | int]:
    """Count how often each engine ranks the right FAQ first; both are asked every text."""
    asked = [(bank.tenant, *one) for bank in banks for one in bank.asked]
    random.Random(2).shuffle(asked)
    asked, hits, same = asked[:count], [0, 0], 0
    starts = range(0, len(asked), 64)
    with phase("answers compared with float32's", len(starts)) as done:
        for start in starts:
            rows = asked[start : start + 64]
            items = [SearchItem(tenant, text, 1) for tenant, text, _ in rows]
            found = [_best(one, items) for one in (engine, exact)]
            for place, best in enumerate(found):
                pairs = zip(best, rows, strict=True)
                hits[place] += sum(faq_id == row[2] for faq_id, row in pairs)
            same += sum(a == b for a, b in zip(*found, strict=True))
            done()
    total = len(asked)
    return {
        "texts": total,
        "engine": round(hits[0] / total, 5),
        "float32": round(hits[1] / total, 5),
        "same_answer": round(same / total, 5),
    }


def _best(engine: Engine, items: Sequence[SearchItem]) -> list[str]:
    answers = engine.search(items)
    return [answer.ranked[0].faq_id for answer in answers if isinstance(answer, SearchAnswer)]
