"""Classification in mixed batches: each tenant by its own heads, as it would be alone."""

import random
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.distill.multitask_kd.students import MultitaskModel, TaskTexts
from adapterdistill.errors import UnknownTaskError, UnknownTenantError, WithdrawnError
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.serve.engine.items import ClassifyAnswer, ClassifyItem
from tests.random_variants import TASKS, make_variant_tenant
from tests.serving_store import MadeTenant, make_tenant, put_live

TEXTS = ["where is my parcel", "hi", "opening hours", "it broke at once, twice"]


def made_tenants(encoder: Encoder) -> list[MadeTenant]:
    return [
        make_variant_tenant(encoder, "acme", "transformer", seed=1, tasks=TASKS),
        make_variant_tenant(encoder, "brook", "transformer", seed=2, tasks=TASKS),
        make_variant_tenant(encoder, "cove", "bilstm", seed=3, tasks=TASKS),
        make_tenant(encoder, "plain", seed=4),
    ]


@pytest.fixture
def engine(store: Path, encoder: Encoder) -> Engine:
    for made in made_tenants(encoder):
        put_live(store, made)
    engine = Engine(encoder, store)
    engine.refresh()
    return engine


def expected(encoder: Encoder, made: MadeTenant, item: ClassifyItem) -> dict[str, float]:
    """Probability by class, of this item alone."""
    model = made.adapter
    assert isinstance(model, MultitaskModel)
    place, head = next((n, t) for n, t in enumerate(TASKS, start=1) if t.name == item.task)
    texts = [item.text, item.text_pair or ""] if head.pairs else [item.text]
    ids = tuple(map(tuple, encoder.tokenize(texts)))
    rows = TaskTexts(ids, torch.zeros(1, dtype=torch.int64), head.pairs, len(head.classes))
    [found] = model.predict(rows, place).double().softmax(-1).tolist()
    return dict(zip(head.classes, found, strict=True))


def test_each_item_of_a_mixed_batch_is_answered_by_its_own_tenants_head(
    engine: Engine, encoder: Encoder
) -> None:
    made = {one.tenant: one for one in made_tenants(encoder)}
    draw = random.Random(0)
    items: list[SearchItem] = []
    for _ in range(200):
        tenant, text = draw.choice(["acme", "brook", "cove"]), draw.choice(TEXTS)
        task = draw.choice(TASKS)
        pair = draw.choice(TEXTS) if task.pairs else None
        kind = draw.random()
        if kind < 0.2:
            items.append(SearchItem(draw.choice([*made]), text))
        else:
            items.append(ClassifyItem(tenant, text, 3, task=task.name, text_pair=pair))
    outcomes = engine.answer(items)
    seen = set()
    for item, outcome in zip(items, outcomes, strict=True):
        own = made[item.tenant]
        if isinstance(item, ClassifyItem):
            assert isinstance(outcome, ClassifyAnswer)
            wanted = expected(encoder, own, item)
            found = {one.label: one.probability for one in outcome.ranked}
            assert found == pytest.approx(wanted, abs=1e-4)
            assert [*found.values()] == sorted(found.values(), reverse=True)
            assert outcome.version == own.bundle.manifest.version
            seen.add((item.tenant, item.task, round(max(wanted.values()), 4)))
        else:
            assert isinstance(outcome, SearchAnswer)
            assert outcome.ranked[0].faq_id == own.expected(encoder, item.text)[0][0]
    assert len({(task, value) for _, task, value in seen}) > 20  # a wrong head would be noticed


def test_an_error_stands_in_its_items_place_and_the_others_are_answered(engine: Engine) -> None:
    name = engine.snapshot.tenants["brook"].manifest.ref.name
    engine.withdraw(name)
    items = [
        ClassifyItem("acme", "hi", task="mood"),
        ClassifyItem("brook", "hi", task="mood"),
        ClassifyItem("nobody", "hi", task="mood"),
        ClassifyItem("plain", "hi", task="mood"),
        ClassifyItem("acme", "hi", task="other"),
        ClassifyItem("acme", "hi", 1, task="mood"),
    ]
    outcomes = engine.answer(items)
    kinds = [type(one) for one in outcomes]
    assert kinds == [
        ClassifyAnswer, WithdrawnError, UnknownTenantError, UnknownTaskError, UnknownTaskError,
        ClassifyAnswer,
    ]  # fmt: skip
    assert [len(one.ranked) for one in outcomes if isinstance(one, ClassifyAnswer)] == [3, 1]
    told = [str(one) for one in outcomes if isinstance(one, UnknownTaskError)]
    assert told[0].endswith("its tasks: none") and told[1].endswith("its tasks: mood, same")


def test_tokens_of_classified_texts_are_counted(engine: Engine, encoder: Encoder) -> None:
    before = engine.num_tokens
    engine.answer([ClassifyItem("acme", TEXTS[0], task="same", text_pair=TEXTS[2])])
    assert engine.num_tokens - before == sum(map(len, encoder.tokenize([TEXTS[0], TEXTS[2]])))
