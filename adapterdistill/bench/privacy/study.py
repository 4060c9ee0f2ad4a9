"""`adapterdistill bench privacy`: secret orders, membership audits, and private mixing.

Each tenant arrives with some queries an FAQ; as many others of the same FAQs are held out of all
trainings and are the audit's non-members. Test queries are ranked against the centroids of
questions and queries.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.arrivals.arriving import teacher_of
from adapterdistill.bench.tenants import BenchTenant, choose_teachers
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.distill.averaging import OWN_RATE, OWN_STEPS, averaged_teachers
from adapterdistill.distill.batches import TrainingRows, choose_rows
from adapterdistill.distill.held_out import centroids
from adapterdistill.distill.method import OWN_ADAPTER, Method, StageTexts, Start
from adapterdistill.distill.methods import METHODS
from adapterdistill.distill.private.mixing import (
    Guarantee,
    mixed_student,
    private_shares,
    query_scores,
)
from adapterdistill.distill.private.order import secret_choice
from adapterdistill.distill.rows import in_scope
from adapterdistill.distill.training import Schedule, train
from adapterdistill.evaluation.membership import Membership, audit_membership
from adapterdistill.evaluation.metrics import faq_scores, gold_ranks, top1
from adapterdistill.sections import Section

EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)
DELTA = 1e-5
WIDTH = 24


@dataclass(frozen=True)
class Size:
    """How much is run."""

    queries: int
    """Queries an FAQ that train, and as many that are held out."""
    own_steps: int
    mixing_steps: int
    decoys: int
    """Wrong rows among which the right one is guessed."""
    draws: int
    """Draws of the mechanism's noise, over which accuracies are averaged."""


SIZES = {"quick": Size(5, 20, 20, 2, 2), "standard": Size(5, 40, 40, 8, 5)}


@dataclass(frozen=True)
class Made:
    """One way to make an adapter, on one tenant with one seed."""

    tenant: str
    seed: int
    way: str
    top1: float
    membership: Membership | None


@dataclass(frozen=True)
class Guessed:
    """Whether repeating a training confirms one row of it."""

    tenant: str
    seed: int
    order: str
    confirmed: bool
    """The right row, of all guesses, gives the nearest weights."""
    exact: bool
    """And gives the same weights."""


@dataclass(frozen=True)
class Rows:
    """A tenant's rows: questions first, then queries that train, then others of the same FAQs."""

    all: TrainingRows
    questions: int
    trained: int
    test: TrainingRows
    num_faqs: int

    @classmethod
    def of(cls, tenant: BenchTenant, queries: int, seed: int) -> "Rows":
        arrived = tenant.arrival(queries, seed=seed)
        used = set(arrived.texts)
        more = tenant.first(2 * queries, seed=seed)
        others = more.select([row for row, text in enumerate(more.texts) if text not in used])
        questions = tenant.num_faqs
        return cls(
            arrived.join(others).training(),
            questions,
            len(arrived),
            in_scope(tenant.test.training()),
            questions,
        )

    def part(self, rows: slice) -> TrainingRows:
        return TrainingRows(self.all.ids[rows], self.all.labels[rows])

    @property
    def training(self) -> TrainingRows:
        return self.part(slice(0, self.trained))


def measure(bench: Workbench, tenant: BenchTenant, seed: int, size: Size) -> list[Made]:
    """Every way on one tenant with one seed."""
    encoder, rows = bench.encoder, Rows.of(tenant, size.queries, seed)
    teachers = teachers_of(bench, tenant)
    judge = partial(_judged, encoder, rows)
    ways: dict[str, Callable[[], Sequence[BottleneckAdapter | None]]] = {
        "bare encoder": lambda: [None],
        "own adapter, public order": lambda: [_own(encoder, rows.training, size, seed, None)],
        "own adapter, secret order": lambda: [_own(encoder, rows.training, size, seed, "a")],
        "student, public order": lambda: [_student(encoder, teachers, rows.training, seed, None)],
        "student, secret order": lambda: [_student(encoder, teachers, rows.training, seed, "a")],
    }
    questions = rows.part(slice(0, rows.questions))
    queries = rows.part(slice(rows.questions, rows.trained))
    scores = query_scores(encoder, teachers, questions, queries)
    equal = torch.full((len(teachers),), 1 / len(teachers))
    ways["mixed, equal weights"] = lambda: [mixed_student(encoder, teachers, equal, steps=0)]

    def mixed(epsilon: float, steps: int) -> list[BottleneckAdapter]:
        draws = 1 if math.isinf(epsilon) else size.draws
        guarantee = Guarantee(epsilon, DELTA)
        return [
            mixed_student(
                encoder,
                teachers,
                private_shares(scores, guarantee, seed=1000 * seed + draw),
                steps=steps,
            )
            for draw in range(draws)
        ]

    for epsilon in EPSILONS:
        ways[f"mixed, epsilon {epsilon:g}"] = partial(mixed, epsilon, 0)
    ways["mixed, epsilon 4, distilled"] = partial(mixed, 4.0, size.mixing_steps)
    return [Made(tenant.name, seed, way, *judge(list(make()), seed)) for way, make in ways.items()]


def guess(bench: Workbench, tenant: BenchTenant, seed: int, size: Size) -> list[Guessed]:
    """Train on each guess of one row, and take the one that comes nearest to the publication."""
    rows = Rows.of(tenant, size.queries, seed)
    known, last = rows.training, rows.trained - 1
    label = int(known.labels[last])
    places = list(range(rows.trained, len(rows.all.ids)))
    same = [row for row in places if int(rows.all.labels[row]) == label]
    decoys = [*same, *(row for row in places if row not in same)][: size.decoys]
    found = []
    for order, owners, attackers in (("public", None, None), ("secret", "owner", "attacker")):
        published = _own(bench.encoder, known, size, seed, owners)

        def distance(
            row: int,
            attackers: str | None = attackers,
            published: BottleneckAdapter = published,
        ) -> float:
            ids = [*known.ids[:-1], rows.all.ids[row]]
            again = _own(bench.encoder, TrainingRows(ids, known.labels), size, seed, attackers)
            pairs = zip(again.parameters(), published.parameters(), strict=True)
            return math.sqrt(sum(float((one - other).square().sum()) for one, other in pairs))

        right, wrong = distance(last), [distance(row) for row in decoys]
        found.append(Guessed(tenant.name, seed, order, right < min(wrong), exact=right == 0.0))
    return found


def teachers_of(bench: Workbench, tenant: BenchTenant) -> list[BottleneckAdapter]:
    """The other tenants' adapters, trained unless the cache has them."""
    found = []
    for name in choose_teachers(tenant.name, bench.tenants, count=16, seed=0):
        cell = teacher_of(name)
        bench.run(cell)
        payload = bench.cache.read_payload(bench.key(cell))
        found.append(unpack_adapter(payload).to(bench.encoder.device))
    return found


def _trained(
    method: Method, encoder: Encoder, rows: TrainingRows, start: Start, secret: str | None
) -> BottleneckAdapter:
    objective = method.objective(start, rows, StageTexts(rows, None))
    choose = choose_rows if secret is None else secret_choice(secret)
    train(objective, rows, start.schedule, seed=start.seed, device=encoder.device, choose=choose)
    adapter = objective.deployed()
    assert isinstance(adapter, BottleneckAdapter)
    return adapter.requires_grad_(False)


def _own(
    encoder: Encoder, rows: TrainingRows, size: Size, seed: int, secret: str | None
) -> BottleneckAdapter:
    schedule = Schedule(size.own_steps, fixed=True, batch_size=max(64, len(rows.ids)))
    start = Start(encoder, seed, WIDTH, schedule, Section())
    return _trained(OWN_ADAPTER, encoder, rows, start, secret)


def _student(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    rows: TrainingRows,
    seed: int,
    secret: str | None,
) -> BottleneckAdapter:
    choose = choose_rows if secret is None else secret_choice(secret)
    average, _ = averaged_teachers(encoder, teachers, rows, choose=choose)
    schedule = Schedule(OWN_STEPS, learning_rate=OWN_RATE, fixed=True)
    start = Start(encoder, seed, WIDTH, schedule, Section(), initial=average)
    return _trained(METHODS["averaged_teachers"], encoder, rows, start, secret)


@torch.no_grad()
def _judged(
    encoder: Encoder, rows: Rows, adapters: Sequence[BottleneckAdapter | None], seed: int
) -> tuple[float, Membership | None]:
    right, embedded = [], []
    for adapter in adapters:
        vectors = encoder.embed_ids(rows.all.ids, adapter, batch_size=128).cpu()
        known = slice(0, rows.trained)
        index = centroids(vectors[known], rows.all.labels[known], rows.num_faqs)
        asked = encoder.embed_ids(rows.test.ids, adapter, batch_size=128).cpu()
        scores = faq_scores(asked, index, torch.arange(rows.num_faqs), rows.num_faqs)
        right.append(top1(gold_ranks(scores, rows.test.labels)))
        embedded.append(vectors)
    places: Tensor = torch.arange(len(rows.all.ids))
    public = encoder.embed_ids(rows.all.ids, batch_size=128).cpu()
    trained = (places < rows.trained).expand(len(embedded), -1)
    found = audit_membership(
        embedded, public, rows.all.first_labels, trained, places < rows.questions, seed=seed
    )
    return sum(right) / len(right), found
