"""Answers classification tasks by the heads of light students; an adapter has none."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from adapterdistill.backbone import pack
from adapterdistill.distill.method import Variant
from adapterdistill.distill.multitask_kd.method import LightSettings, TaskHead
from adapterdistill.distill.multitask_kd.students import MultitaskModel
from adapterdistill.errors import UnknownTaskError
from adapterdistill.serve.engine.items import (
    ClassifyAnswer,
    ClassifyItem,
    ClassifyOutcome,
    RankedClass,
)
from adapterdistill.serve.engine.live import LiveTenant, NotLive


class Head(NamedTuple):
    """A task's head in a light student."""

    model: MultitaskModel
    place: int
    """The task's place among the model's tasks, whose first is the retrieval."""
    task: TaskHead


def tasks_of(live: LiveTenant) -> tuple[TaskHead, ...]:
    """The classification tasks that a bundle answers."""
    served = live.served
    if isinstance(served, Variant) and isinstance(served.settings, LightSettings):
        return served.settings.tasks
    return ()


def head_of(live: LiveTenant, task: str) -> Head:
    """Find the head of a task. Raises UnknownTaskError: the bundle does not answer it."""
    for place, one in enumerate(tasks_of(live), start=1):
        if one.name == task:
            assert isinstance(live.served, Variant)
            assert isinstance(live.served.model, MultitaskModel)
            return Head(live.served.model, place, one)
    names = ", ".join(one.name for one in tasks_of(live)) or "none"
    raise UnknownTaskError(
        f"tenant {live.manifest.tenant} is not served by a model of this task; its tasks: {names}"
    )


@torch.inference_mode()
def classified(
    found: Sequence[tuple[ClassifyItem, LiveTenant | NotLive]],
) -> tuple[list[ClassifyOutcome], int]:
    """The outcomes of items in their order, and the tokens that were read.

    Items of one tenant's task share a forward.
    """
    outcomes: dict[int, ClassifyOutcome] = {}
    rows_of: dict[tuple[LiveTenant, str], list[int]] = {}
    for row, (item, live) in enumerate(found):
        if isinstance(live, LiveTenant):
            rows_of.setdefault((live, item.task), []).append(row)
        else:
            outcomes[row] = live
    num_tokens = 0
    for (live, task), rows in rows_of.items():
        items = [found[row][0] for row in rows]
        try:
            head = head_of(live, task)
        except UnknownTaskError as error:
            outcomes |= dict.fromkeys(rows, error)
            continue
        answers, tokens = _answers(items, live, head)
        outcomes |= zip(rows, answers, strict=True)
        num_tokens += tokens
    return [outcomes[row] for row in range(len(found))], num_tokens


def _answers(
    items: Sequence[ClassifyItem], live: LiveTenant, head: Head
) -> tuple[list[ClassifyAnswer], int]:
    texts = [
        text
        for item in items
        for text in ((item.text, item.text_pair or "") if head.task.pairs else (item.text,))
    ]
    encoder = live.bank.encoder
    ids = encoder.tokenize_queries(texts, [live.manifest.encoder] * len(texts))
    logits = head.model(pack(ids, encoder.device), head.place)
    probabilities, order = logits.float().softmax(-1).sort(descending=True, stable=True)
    answers = [
        ClassifyAnswer(
            tenant=item.tenant,
            adapter=live.manifest.adapter,
            version=live.manifest.version,
            task=head.task.name,
            ranked=tuple(
                RankedClass(head.task.classes[place], probability)
                for place, probability in zip(places, values, strict=True)
            )[: item.top_k],
            variant=live.variant,
            alias=item.alias,
        )
        for item, places, values in zip(items, order.tolist(), probabilities.tolist(), strict=True)
    ]
    return answers, sum(map(len, ids))
