"""Meta-KD: a domain that comes late, and light students of it, by what they may learn from.

The newcomer has none, few or all of its rows. The others' rows make a teacher over domains (mixed,
or Meta-KD's), or, in the federated form, stay where they are. All students start alike, see
batches in the same order and take the same number of steps; `test` rows are only scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.meta.domains import Domain, Size, first_of_each_class, join, select
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.distill.adapter_distillation import public_texts
from adapterdistill.distill.batches import TrainingRows, choose_in_epochs
from adapterdistill.distill.composition import Mixture
from adapterdistill.distill.meta_kd.formulas import DomainHead, Prototypes, row_weights, typicality
from adapterdistill.distill.meta_kd.shared_prototypes import (
    PrototypeHead,
    read_prototypes,
    share_prototypes,
)
from adapterdistill.distill.meta_kd.student import TERMS, MetaDistillation
from adapterdistill.distill.meta_kd.teacher import Lesson, MetaTeaching, Teacher, check_domains
from adapterdistill.distill.multitask_kd.students import (
    AdapterBody,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
)
from adapterdistill.distill.objective import Objective
from adapterdistill.distill.training import Schedule, train
from adapterdistill.manifest import SharedPrototypes
from adapterdistill.testbed.random_adapters import new_adapter

NONE, OWN, MIXED = "no distillation", "its own teacher", "mixed-domain teacher"
META, FEDERATED = "Meta-KD", "Meta-KD, federated"
STUDENTS = (NONE, OWN, MIXED, META, FEDERATED)
BATCH_SIZE = 32
RATE = 1e-3
PUBLIC_TEXTS = 120
"""Texts of the samples that a federated student reads beside its own rows."""


@dataclass(frozen=True)
class StudentShape:
    """The students' size."""

    layers: int = 2
    heads: int = 6


class Newcomers:
    """Runs every student of every newcomer; results and owners' adapters are kept by content."""

    def __init__(
        self,
        encoder: Encoder,
        domains: Sequence[Domain],
        classes: tuple[str, ...],
        size: Size,
        shape: StudentShape,
        cache: ResultCache,
    ) -> None:
        """Raises ConfigError where the student's shape is not the encoder's."""
        self._encoder, self._domains, self._classes = encoder, domains, classes
        self._size, self._shape, self._cache = size, shape, cache
        self._student(domains[0].train, 0)
        public = tuple(map(tuple, encoder.tokenize(public_texts())))
        self._public = public[:: max(1, len(public) // PUBLIC_TEXTS)]
        texts = [*self._public, *(ids for domain in domains for ids in domain.train.ids)]
        self._embedded = dict(zip(texts, encoder.embed_ids(texts).cpu(), strict=True))
        self._published = {d.name: self._publish(d.train) for d in domains}

    def has(self, newcomer: Domain, *, seed: int) -> bool:
        """Whether its results are there already."""
        return self._key("newcomer", newcomer.name, seed) in self._cache

    def of(self, newcomer: Domain, *, seed: int) -> dict[str, Any]:
        """Hits on valid and test rows of every student and teacher, by the share of own rows."""
        key = self._key("newcomer", newcomer.name, seed)
        found = self._cache.read(key)
        if found is None:
            found = self._measured(newcomer, seed)
            self._cache.write(key, found)
        return found

    def _measured(self, newcomer: Domain, seed: int) -> dict[str, Any]:
        others = [domain for domain in self._domains if domain.name != newcomer.name]
        theirs = join([domain.train for domain in others])
        adapters = [self._owner_adapter(domain, seed) for domain in others]
        scored = _Scores(newcomer)
        # The teachers' outputs on every row that some student may learn from.
        every = join([newcomer.train, theirs])
        lessons = {}
        for kind in (MIXED, META):
            teacher = self._pooled_teacher(others, theirs, seed, meta=kind == META)
            domains = torch.cat([torch.full((len(newcomer.train),), -1), _places(others)])
            lessons[kind] = teacher, self._lesson(teacher, every.ids, domains)
        for share in self._size.shares:
            chosen = first_of_each_class(newcomer.train, share)
            own = select(newcomer.train, chosen)
            if len(own):
                plain = self._student(own, seed)
                self._fit(MetaTeaching(plain, own.labels), own, self._size.student_steps, seed)
                scored.student(NONE, share, plain)
                teacher = self._domain_teacher(own, seed)
                lesson = self._lesson(teacher, own.ids, torch.zeros(len(own)).long())
                scored.both(OWN, share, teacher, self._distilled(lesson, own, None, seed))
            prototypes = self._prototypes([d.name for d in others], own)
            pooled = [*chosen, *range(len(newcomer.train), len(every))]
            texts = select(every, pooled)
            for kind, (teacher, lesson) in lessons.items():
                weighed = prototypes if kind == META else None
                student = self._distilled(lesson.select(pooled), texts, weighed, seed)
                scored.both(kind, share, teacher, student)
            head = PrototypeHead(self._prototypes([d.name for d in others], None))
            head.to(self._encoder.device)
            federated, texts = self._federated(adapters, head, own)
            lesson = self._lesson(federated, texts.ids, torch.zeros(len(texts)).long())
            # The public texts have no labels: the teacher's own class is taken.
            texts.labels[len(own) :] = lesson.logits.argmax(-1).cpu()[len(own) :]
            student = self._distilled(lesson, texts, prototypes, seed)
            scored.both(FEDERATED, share, federated, student)
        return scored.found

    def _key(self, what: str, name: str, seed: int) -> str:
        encoder = self._encoder
        rows = {
            d.name: [
                list(zip(t.ids, t.labels.tolist(), strict=True)) for t in (d.train, d.valid, d.test)
            ]
            for d in self._domains
        }
        return content_key(
            {
                "benchmark": "meta", "what": what, "name": name, "seed": seed, "rows": rows,
                "encoder": encoder.ref.weights_sha256, "dtype": str(encoder.dtype),
                "size": asdict(self._size), "shape": asdict(self._shape), "terms": asdict(TERMS),
                "rate": RATE, "public": len(self._public),
            }
        )  # fmt: skip

    # Teachers

    def _adapter_model(
        self, texts: TaskTexts, seed: int
    ) -> tuple[BottleneckAdapter, MultitaskModel]:
        adapter = new_adapter(self._encoder, seed)
        return adapter, MultitaskModel(AdapterBody(self._encoder, adapter), [texts], seed=seed)

    def _domain_teacher(self, own: TaskTexts, seed: int) -> Teacher:
        adapter, model = self._adapter_model(own, seed)
        self._fit(MetaTeaching(model, own.labels), own, self._size.owner_steps, seed)
        return Teacher(self._encoder, adapter, model.heads[0])

    def _pooled_teacher(
        self, others: Sequence[Domain], texts: TaskTexts, seed: int, *, meta: bool
    ) -> Teacher:
        adapter, model = self._adapter_model(texts, seed)
        head = None
        objective = MetaTeaching(model, texts.labels)
        if meta:
            domains = _places(others)
            names = [domain.name for domain in others]
            check_domains(domains, names)
            prototypes = self._prototypes(names, None)
            typical = self._typical(texts, domains, prototypes)
            head = DomainHead(self._encoder.hidden_size, len(others), seed=seed)
            head.to(self._encoder.device)
            objective = MetaTeaching(
                model, texts.labels, typical=typical, domains=domains, domain_head=head
            )
        self._fit(objective, texts, self._size.teacher_steps, seed)
        return Teacher(self._encoder, adapter, model.heads[0], head)

    def _owner_adapter(self, domain: Domain, seed: int) -> BottleneckAdapter:
        """The adapter that the domain's owner trains on its own rows and publishes."""
        key = self._key("owner", domain.name, seed)
        if key not in self._cache:
            adapter, model = self._adapter_model(domain.train, seed)
            names = [one.name for one in self._domains]
            prototypes = self._prototypes(names, None)
            model.heads[0] = PrototypeHead(prototypes).to(self._encoder.device)
            place = torch.full((len(domain.train),), names.index(domain.name))
            typical = self._typical(domain.train, place, prototypes)
            objective = MetaTeaching(model, domain.train.labels, typical=typical)
            self._fit(objective, domain.train, self._size.owner_steps, seed)
            payload = pack_adapter(adapter, model_name=self._encoder.ref.name)
            self._cache.write_payload(key, payload)
            self._cache.write(key, {})
        payload = self._cache.read_payload(key)
        return unpack_adapter(payload).to(self._encoder.device).requires_grad_(False)

    def _federated(
        self, adapters: Sequence[BottleneckAdapter], head: PrototypeHead, own: TaskTexts
    ) -> tuple[Teacher, TaskTexts]:
        """The teacher made of the others' adapters, and the texts that its student learns from."""
        nobody = torch.full((len(self._public),), -1)
        texts = join([own, TaskTexts(self._public, nobody, False, len(self._classes))])
        delta = Mixture.of(self._encoder, adapters, TrainingRows(texts.ids, texts.labels))
        return Teacher(self._encoder, delta, head), texts

    # Students

    def _student(self, texts: TaskTexts, seed: int) -> MultitaskModel:
        body = TransformerBody(
            self._encoder, num_layers=self._shape.layers, num_heads=self._shape.heads
        )
        return MultitaskModel(body, [texts], seed=seed)

    def _lesson(self, teacher: Teacher, ids: Sequence[Sequence[int]], domains: Tensor) -> Lesson:
        return Lesson.of(teacher, ids, domains, student_layers=self._shape.layers)

    def _distilled(
        self, lesson: Lesson, texts: TaskTexts, prototypes: Prototypes | None, seed: int
    ) -> MultitaskModel:
        """A student; `prototypes`, the newcomer's last, weigh its rows, None weighs them alike."""
        student, weights = self._student(texts, seed), torch.ones(len(texts))
        if prototypes is not None:
            newcomer = torch.full((len(texts),), len(prototypes.counts) - 1)
            gold = lesson.logits.cpu().softmax(-1).gather(1, texts.labels[:, None])[:, 0]
            weights = row_weights(self._typical(texts, newcomer, prototypes), gold)
        objective = MetaDistillation(student, lesson, texts.labels, weights, terms=TERMS, seed=seed)
        self._fit(objective, texts, self._size.student_steps, seed)
        return student

    def _fit(self, objective: Objective, texts: TaskTexts, steps: int, seed: int) -> None:
        schedule = Schedule(
            max_steps=steps, learning_rate=RATE, warmup_steps=max(5, steps // 10),
            batch_size=BATCH_SIZE,
        )  # fmt: skip
        rows, device = TrainingRows(texts.ids, texts.labels), self._encoder.device
        train(objective, rows, schedule, seed=seed, device=device, choose=choose_in_epochs)
        objective.requires_grad_(False)

    # Weights

    def _prototypes(self, names: Sequence[str], own: TaskTexts | None) -> Prototypes:
        """The prototypes that the owners published; the newcomer's come last if `own` is given."""
        found = [self._published[name] for name in names]
        if own is not None:
            found.append(self._publish(own))
        return read_prototypes(found, self._classes, width=self._encoder.hidden_size)

    def _publish(self, texts: TaskTexts) -> SharedPrototypes:
        """Prototypes of these texts; without any text nothing is known of the classes."""
        return share_prototypes(self._embeddings(texts), texts.labels, self._classes)

    def _typical(self, texts: TaskTexts, domains: Tensor, prototypes: Prototypes) -> Tensor:
        return typicality(self._embeddings(texts), texts.labels, domains, prototypes)

    def _embeddings(self, texts: TaskTexts) -> Tensor:
        """Embeddings by the public frozen encoder."""
        width = self._encoder.hidden_size
        found = [self._embedded[ids] for ids in texts.ids]
        return torch.stack(found) if found else torch.empty(0, width)


def _places(domains: Sequence[Domain]) -> Tensor:
    """[rows] int64: which of the domains each of their training rows, end to end, is of."""
    sizes = torch.tensor([len(domain.train) for domain in domains])
    return torch.arange(len(domains)).repeat_interleave(sizes)


class _Scores:
    """Hits of teachers and students on one domain's valid and test rows."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.found: dict[str, Any] = {"students": {}, "teachers": {}}

    def student(self, kind: str, share: float, model: MultitaskModel) -> None:
        self._keep("students", kind, share, lambda texts: model.predict(texts))

    def both(self, kind: str, share: float, teacher: Teacher, student: MultitaskModel) -> None:
        self.student(kind, share, student)
        self._keep("teachers", kind, share, lambda texts: teacher.predict(texts.ids))

    def _keep(
        self, who: str, kind: str, share: float, predict: Callable[[TaskTexts], Tensor]
    ) -> None:
        of_kind = self.found[who].setdefault(kind, {})
        of_kind[f"{share:g}"] = {
            part: (predict(texts).argmax(-1).cpu() == texts.labels).int().tolist()
            for part, texts in (("valid", self._domain.valid), ("test", self._domain.test))
        }
