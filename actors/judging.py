"""Candidates and variants in a run's folder: how each ranks the rows, and which is served."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from adapterdistill.actors.live import Live
from adapterdistill.actors.records import Evaluated, Published, VariantMade
from adapterdistill.actors.report.findings import Findings, find
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.confidence import Calibration
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Query, TenantDataset
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.labels import first_labels, labels_of
from adapterdistill.distill.rows import TenantRows
from adapterdistill.distill.stage import load_payload
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import NotServedError
from adapterdistill.evaluation.arrival import (
    AVERAGED_PRIOR,
    LIVE_PRIOR,
    TEMPERATURE,
    Candidate,
    Competition,
    Judged,
    compete,
    floor_prior,
)
from adapterdistill.evaluation.calibration import calibrate, upper_bound
from adapterdistill.evaluation.choice import Prior
from adapterdistill.evaluation.evaluate import Ranking, build_index, rank_queries
from adapterdistill.evaluation.foreign import foreign_texts
from adapterdistill.evaluation.membership import Membership, audit_membership
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.evaluation.report import (
    Choice,
    Figures,
    compare,
    compare_variant,
    decide_variant,
)
from adapterdistill.evaluation.scorer import Scorer
from adapterdistill.evaluation.tenant_texts import TenantTexts, read_texts
from adapterdistill.files import write_secret
from adapterdistill.manifest import VariantKind
from adapterdistill.store.bundle import NEVER_ABSTAIN

PERHAPS_OUT_OF_SCOPE = "perhaps_out_of_scope.jsonl"
"""File of the tenant's workspace: unlabelled queries that would be turned away."""
LEAST_ROWS = 10
"""Held-out rows from which a run may be refused for what they show, or what is live may stay."""
MOST_AUDITED = 1000
"""Rows that a membership audit embeds, evenly spread over all."""
CHANCE_TIMES = 1.5
"""Top-1 below these many times that of guessing is no better than by chance."""
_EQUAL = Prior(0.0, 1.0)
_CHOICE: TypeAdapter[Choice] = TypeAdapter(Choice)
_FIGURES: TypeAdapter[dict[Choice, Figures]] = TypeAdapter(dict[Choice, Figures])
_USUAL: tuple[Choice, ...] = ("distilled", "own", "bare")
"""The reference is the first of these that there is: it is best for most tenants."""


@dataclass(frozen=True)
class Judge:
    """A tenant's rows, on which candidates are compared."""

    encoder: Encoder
    dataset: TenantDataset
    rows: TenantRows
    config: OnboardConfig
    seed: int
    """Seed of `rows`, which deals them to folds."""

    def evaluate(
        self, adapters: Mapping[Choice, Path], *, teachers: int, live: Live | None
    ) -> "Judgement":
        """Let the candidates compete on held-out rows; test rows are for the record.

        Args:
            adapters: the candidates' payload files, with the folds' beside those that rows trained.
            teachers: number of teachers that taught the student.
            live: the live version; it competes if held-out rows did not train it.

        """
        trained = {"own", "distilled"} if self.rows.train.ids else set()
        reference = next(name for name in _USUAL if name in adapters)
        candidates = {
            str(name): Candidate(
                load_payload(file),
                self._folds(file) if name in trained else (),
                None if name == reference else self._prior(name, teachers),
            )
            for name, file in adapters.items()
        }
        if live is not None and (candidate := self._live(live)) is not None:
            candidates["live"] = candidate
        found = self._compete(candidates)
        chosen = _CHOICE.validate_python(found.competition.choice.chosen)
        own = "own" if "own" in adapters else "bare"
        student = "distilled" if "distilled" in adapters else own
        figures = {
            name: Figures(
                held_out=found.held[name].metrics(),
                test=found.test[name].metrics(),
                difference=judgement.difference,
                error=judgement.error,
                expected=judgement.posterior,
            )
            for name, judgement in found.competition.choice.judgements.items()
        }
        evaluated = Evaluated(
            candidates=_FIGURES.validate_python(figures),
            choice=chosen,
            rows=len(found.held[chosen].ranks),
            num_faqs=self.rows.num_faqs,
            folds=self.rows.num_folds,
            held_out=compare(found.held[own], found.held[student]),
            test=compare(found.test[own], found.test[student]),
            threshold=found.threshold(chosen),
            calibration=found.calibration(chosen),
            questions_alone=self._questions_alone().metrics(),
            perhaps_out_of_scope=len(unanswered := found.unanswered(chosen)),
            membership=None if chosen == "live" else self.membership(chosen, adapters[chosen]),
        )
        judged = found.competition.judged[chosen]
        findings = find(
            judged,
            self._texts[0],
            self.dataset.faqs(),
            embed=partial(self._embed, candidates[chosen].embedder),
            threshold=evaluated.threshold,
            seen=candidates[chosen].seen,
        )
        return Judgement(evaluated, judged.scorer, unanswered, findings)

    def membership(self, choice: Choice, file: Path) -> Membership | None:
        """Audit what the training of a candidate reveals of its rows, on rows that it did not see.

        None where no row trained it, or too few rows are held out to tell. The folds' adapters
        stand for the candidate, which was trained on all rows in the same way.

        Args:
            file: the candidate's payload; the folds' lie beside it.
        """
        if choice not in ("own", "distilled") or not self.rows.train.ids:
            return None
        texts, folds = self._texts
        ids, (_, labels) = texts.row_ids(self.encoder), texts.rows()
        kept = range(0, len(ids), math.ceil(len(ids) / MOST_AUDITED))
        models = self._folds(file)
        held_by = torch.arange(len(models))[:, None]

        def embedded(adapter: Embedder | None) -> Tensor:
            chosen = [ids[row] for row in kept]
            return self.encoder.embed_ids(chosen, adapter, batch_size=128).cpu()

        return audit_membership(
            [embedded(model) for model in models],
            embedded(None),
            labels[kept],
            (folds != held_by)[:, kept],
            torch.arange(len(ids))[kept] < len(ids) - len(texts.queries),
        )

    def decide_on_variant(
        self, trained: dict[str, Any], adapter: Path, variant: Path, kind: VariantKind, lost: float
    ) -> tuple[VariantMade, Scorer]:
        """Compare the chosen adapter with a variant of it.

        Args:
            trained: the fields of `VariantMade` that say how the variant was trained.
            lost: top-1 that the variant may lose on held-out rows.

        Returns:
            The record, and the scorer of the variant.
        """
        bare = Candidate(None, prior=_EQUAL)
        whole = self._variant(variant)
        folds = [fold_file(variant, fold) for fold in range(self.rows.num_folds)]
        found = self._compete(
            {
                "adapter": Candidate(load_payload(adapter), self._folds(adapter)),
                "variant": Candidate(whole, tuple(map(self._variant, folds)) or (whole,), _EQUAL),
                "bare": bare,
            }
        )
        shown = compare_variant(found.held["adapter"], found.held["variant"])
        made = VariantMade(
            **trained,
            **decide_variant(shown, kind, most_lost=lost).model_dump(),
            held_out=shown,
            test=compare_variant(found.test["adapter"], found.test["variant"]),
            threshold=found.threshold("variant"),
            calibration=found.calibration("variant"),
        )
        return made, found.competition.judged["variant"].scorer

    def _compete(self, candidates: Mapping[str, Candidate]) -> "_Found":
        texts, folds = self._texts
        competition = compete(
            self.encoder,
            texts,
            candidates,
            foreign=foreign_texts(self.encoder, texts.questions),
            folds=folds,
            seed=self.seed,
            most_wrong=self.config.release.max_wrong_answers,
        )
        return _Found(
            competition,
            texts.unlabelled,
            held={
                name: _held(one, texts, candidates[name].seen)
                for name, one in competition.judged.items()
            },
            test={
                name: self._test(candidates[name].embedder, one.scorer)
                for name, one in competition.judged.items()
            },
        )

    def _test(self, embedder: Embedder | None, scorer: Scorer) -> Ranking:
        """The test rows, ranked as they would be served."""
        position = {faq.faq_id: place for place, faq in enumerate(self.dataset.faqs())}
        test = list(self.dataset.queries("test"))
        inside = [query for query in test if not query.out_of_scope]
        gold = labels_of([[position[faq] for faq in query.faq_ids] for query in inside])

        def totals(queries: Sequence[Query]) -> Tensor:
            shown = [query.text for query in queries]
            return scorer(self._embed(embedder, shown), shown).total

        total = totals(inside)
        loss = F.cross_entropy(total / TEMPERATURE, first_labels(gold)) if inside else None
        return Ranking(
            ranks=gold_ranks(total, gold),
            best=total.amax(1),
            best_out_of_scope=totals([query for query in test if query.out_of_scope]).amax(1),
            score=None if loss is None else -float(loss),
        )

    def _embed(self, embedder: Embedder | None, texts: Sequence[str]) -> Tensor:
        return self.encoder.embed_texts(texts, embedder, batch_size=128).cpu()

    def _questions_alone(self) -> Ranking:
        """The test rows, ranked by the bare encoder's cosine to each FAQ's question."""
        index = build_index(self.encoder, None, self.rows.questions, self.rows.num_faqs)
        return rank_queries(self.encoder, None, index, self.rows.test)

    def _prior(self, name: Choice, teachers: int) -> Prior:
        if name == "averaged":
            return AVERAGED_PRIOR
        return floor_prior(len(self.rows.train.ids), self.rows.num_faqs, teachers)

    def _live(self, live: Live) -> Candidate | None:
        """The live version, judged by the rows that did not train it.

        None if these are fewer than `LEAST_ROWS`: they would decide by chance, and the confidence
        of its answers could not be told.
        """
        texts, folds = self._texts
        seen = torch.tensor(live.has_seen(texts.row_ids(self.encoder)))
        if int((~seen & (folds >= 0)).sum()) < LEAST_ROWS:
            return None
        return Candidate(unpack_adapter(live.payload), prior=LIVE_PRIOR, seen=seen)

    @property
    def _texts(self) -> tuple[TenantTexts, Tensor]:
        fraction = self.config.training.held_out_fraction
        return read_texts(self.dataset, self.rows, seed=self.seed, held_out_fraction=fraction)

    def _folds(self, file: Path) -> tuple[Embedder, ...]:
        """The folds' adapters; without folds the adapter itself, which no held-out row trained."""
        folds = [fold_file(file, fold) for fold in range(self.rows.num_folds)]
        return tuple(map(load_payload, folds or [file]))

    def _variant(self, file: Path) -> Embedder:
        return unpack_variant(file.read_bytes(), self.encoder).embedder


class Judgement(NamedTuple):
    """Result of `Judge.evaluate`."""

    record: Evaluated
    scorer: Scorer
    """Scorer of the chosen candidate."""
    perhaps_out_of_scope: tuple[str, ...]
    """Texts of unlabelled queries that it would turn away, the least answerable first."""
    findings: Findings
    """What it makes of the rows; private."""


@dataclass(frozen=True)
class _Found:
    """A competition, and the candidates' rankings."""

    competition: Competition
    unlabelled: tuple[str, ...]
    """The tenant's unlabelled queries."""
    held: Mapping[str, Ranking]
    test: Mapping[str, Ranking]

    def threshold(self, name: str) -> float:
        """Rounded down: rounded up, it would turn away the very query that it was set at."""
        cut = math.floor(self.competition.thresholds[name] * 1e6) / 1e6
        return max(NEVER_ABSTAIN, min(1.0, cut))

    def unanswered(self, name: str) -> tuple[str, ...]:
        """Unlabelled queries that the candidate turns away, the least answerable first."""
        evidence, threshold = self.competition.judged[name].unlabelled, self.threshold(name)
        order = evidence.argsort(stable=True)[: int((evidence < threshold).sum())]
        return tuple(self.unlabelled[place] for place in order.tolist())

    def calibration(self, name: str) -> Calibration | None:
        return calibrate(self.held[name], self.threshold(name))


def _held(judged: Judged, texts: TenantTexts, seen: Tensor | None = None) -> Ranking:
    """The held-out rows' ranks and evidence, and the evidence of out-of-scope examples."""
    held = judged.held
    kept = torch.ones(len(held.rows), dtype=torch.bool) if seen is None else ~seen[held.rows]
    return Ranking(
        ranks=gold_ranks(held.scores.total, texts.right_of(held.rows))[kept],
        best=held.scores.evidence[kept],
        best_out_of_scope=judged.outside,
        score=-float(held.losses(TEMPERATURE)[kept].mean()) if bool(kept.any()) else None,
    )


def write_suggestions(config: OnboardConfig, queries: Sequence[str]) -> None:
    """Keep queries that the owner may want to label as out of scope, one JSON object a line."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in queries]
    file = Path(config.workspace) / config.tenant / PERHAPS_OUT_OF_SCOPE
    write_secret(file, "".join(f"{line}\n" for line in lines).encode())


def require_servable(published: Published, evaluated: Evaluated) -> None:
    """Check that the chosen candidate may be served; what was live stays live otherwise.

    Raises:
        NotServedError: the registry quarantined the adapter, or held-out queries are ranked no
            better than by chance.
    """
    if published.quarantined:
        raise NotServedError(
            "not served: the registry put the adapter in quarantine, because it is unlike other "
            "tenants' adapters; what was live stays live. Look at the data, or ask the registry's "
            "operator to release the version, and submit the run again"
        )
    found, faqs = evaluated.candidates[evaluated.choice].held_out, evaluated.num_faqs
    if evaluated.rows < LEAST_ROWS or faqs < 2:
        return
    right = round(found["top1"].value * evaluated.rows)
    if upper_bound(right, evaluated.rows) < CHANCE_TIMES / faqs:
        raise NotServedError(
            f"not served: of {evaluated.rows} held-out queries, {right} are ranked right among "
            f"{faqs} FAQs, which is no better than by chance; what was live stays live. Check "
            "that the queries' faq_id are right, that questions say something, and that FAQs can "
            "be told apart: adapterdistill data describe FOLDER"
        )
