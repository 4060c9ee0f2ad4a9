"""What ranks a tenant's FAQs for a query: several views of it, as matrices and a table of letters.

- `cosine`: to the FAQ's prototype, its rows' centroid pulled towards unlabelled queries.
- `head`: logistic regression on question and queries, anchored at the prototypes.
- `characters`: TF-IDF of character n-grams.
- `answers`: the highest cosine to a sentence of the FAQ's answer, where there are answers.

FAQs are ranked by 0.5 z(cosine) + 0.5 z(head) + 0.1 z(characters) + 0.4 z(answers), where z
standardises a query's scores over the FAQs. Where there are questions only, the cosine has the
head's weight too: a head fitted on one row an FAQ knows no more.

How well the query is answered at all is another matter: the margin of the best FAQ says nothing of
it. Its evidence is the weighted mean of the best cosine (1), the best character score (0.5; 0.25
where there are questions only) and the best answer's cosine (0.5). An FAQ's final score is that
evidence less what the FAQ is behind the best, so that one threshold on the best score decides
whether to answer.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from adapterdistill.checkpoint import metadata_of
from adapterdistill.distill.held_out import centroids
from adapterdistill.errors import ServingError
from adapterdistill.evaluation.characters import CharacterView
from adapterdistill.evaluation.head import ANCHOR, SOFT_WEIGHT, Linear, fit_logistic_head
from adapterdistill.evaluation.metrics import faq_scores
from adapterdistill.evaluation.prototypes import refine, shares

HEAD_IN_RANKING = 0.5
"""The cosine has the rest of 1."""
CHARACTERS_IN_RANKING = 0.1
ANSWERS_IN_RANKING = 0.4
CHARACTERS_IN_EVIDENCE = 0.5
CHARACTERS_OF_QUESTIONS_IN_EVIDENCE = 0.25
"""A question alone has few of the n-grams of what is asked."""
ANSWERS_IN_EVIDENCE = 0.5
"""Chosen across tenants, on rows that are no test rows, like the weights of all views."""
BEHIND = 0.1
"""Score that an FAQ is less for each standard deviation that it ranks behind the best."""


@dataclass(frozen=True)
class Texts:
    """A tenant's labelled rows: the questions, and the queries of each FAQ."""

    vectors: Float[Tensor, "rows d"]
    """Unit length."""
    labels: Int[Tensor, " rows"]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.vectors) == len(self.labels) == len(self.texts):
            raise ValueError(
                f"rows need a vector, a label and a text each, got {len(self.vectors)}, "
                f"{len(self.labels)} and {len(self.texts)}"
            )

    def select(self, mask: Tensor) -> "Texts":
        kept = tuple(t for t, keep in zip(self.texts, mask.tolist(), strict=True) if keep)
        return Texts(self.vectors[mask], self.labels[mask], kept)


@dataclass(frozen=True)
class AnswerSentences:
    """Sentences of the FAQs' answers."""

    vectors: Float[Tensor, "sentences d"]
    """Unit length."""
    faqs: Int[Tensor, " sentences"]


@dataclass(frozen=True)
class Scores:
    """Queries by FAQs."""

    total: Float[Tensor, "queries faqs"]
    """What FAQs are ranked by; the best is the query's evidence."""
    views: Mapping[str, Float[Tensor, "queries faqs"]]
    """Each view's own scores, for an explanation."""

    @property
    def evidence(self) -> Float[Tensor, " queries"]:
        return self.total.amax(1)


@dataclass(frozen=True)
class Scorer:
    """A tenant's fitted views. Data only: it is kept in the private bundle."""

    prototypes: Float[Tensor, "faqs d"]
    head: Linear | None
    """None where no query is labelled."""
    characters: CharacterView
    answers: AnswerSentences | None = None
    """None where no FAQ has an answer."""

    def __call__(self, vectors: Float[Tensor, "queries d"], texts: Sequence[str]) -> Scores:
        """Score queries by their unit-length vectors and their texts.

        Raises:
            ValueError: there are not as many texts as vectors.
        """
        if len(vectors) != len(texts):
            raise ValueError(f"{len(vectors)} query vectors but {len(texts)} texts")
        views = {"cosine": vectors @ self.prototypes.T}
        if self.head is not None:
            views["head"] = self.head(vectors)
        views["characters"] = self.characters(texts)
        if self.answers is not None:
            views["answers"] = faq_scores(
                vectors, self.answers.vectors, self.answers.faqs, len(self.prototypes)
            )
        weights = ranking_weights(views)
        ranking = sum(
            (weight * standardised(views[name]) for name, weight in weights.items()),
            start=torch.zeros(()),
        )
        behind = ranking.amax(1, keepdim=True) - ranking
        return Scores(_evidence(views)[:, None] - BEHIND * behind, views)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers, by name; with the n-grams, `from_tensors` makes it again."""
        letters = self.characters
        found = {
            "prototypes": self.prototypes,
            "characters.idf": letters.idf,
            "characters.starts": letters.starts,
            "characters.faqs": letters.faqs,
            "characters.weights": letters.weights,
        }
        if self.head is not None:
            found |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        if self.answers is not None:
            found |= {"answers.vectors": self.answers.vectors, "answers.faqs": self.answers.faqs}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], grams: Sequence[str]) -> "Scorer":
        """The scorer of these tensors.

        Raises:
            ValueError: a tensor is missing, or shapes disagree.
        """
        try:
            prototypes = tensors["prototypes"]
            letters = CharacterView(
                grams=tuple(grams),
                idf=tensors["characters.idf"],
                starts=tensors["characters.starts"],
                faqs=tensors["characters.faqs"],
                weights=tensors["characters.weights"],
                num_faqs=len(prototypes),
            )
            head = None
            if "head.weight" in tensors:
                head = Linear(tensors["head.weight"], tensors["head.bias"])
            answers = None
            if "answers.vectors" in tensors:
                answers = AnswerSentences(tensors["answers.vectors"], tensors["answers.faqs"])
        except KeyError as error:
            raise ValueError(f"scorer lacks the tensor {error.args[0]}") from None
        _check(prototypes, head, letters)
        if answers is not None:
            _check_answers(answers, prototypes)
        return cls(prototypes, head, letters, answers)


_DIMENSIONS = {
    "prototypes": 2,
    "characters.idf": 1,
    "characters.starts": 1,
    "characters.faqs": 1,
    "characters.weights": 1,
    "head.weight": 2,
    "head.bias": 1,
    "answers.vectors": 2,
    "answers.faqs": 1,
}
_WHOLE = frozenset({"characters.starts", "characters.faqs", "answers.faqs"})
_LIMITS = {"prototypes": 1.001, "characters.weights": 1.001, "answers.vectors": 1.001}
"""Lengths or values that keep cosines within [-1, 1]."""
_LARGEST = 1e4
"""Largest number elsewhere; a fitted head has less than 100."""


def pack_scorer(scorer: Scorer) -> bytes:
    """Serialise a scorer; equal scorers give equal bytes."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in scorer.tensors().items()}
    return safetensors.torch.save(tensors, {"grams": json.dumps(scorer.characters.grams)})


def unpack_scorer(payload: bytes) -> Scorer:
    """Read a scorer that `pack_scorer` wrote.

    Raises:
        ServingError: not safetensors, a tensor is missing, of another type or shape, not finite
            or too large, or the parts contradict each other.
    """
    try:
        tensors = safetensors.torch.load(payload)
        grams = json.loads(metadata_of(payload, "grams") or "null")
    except (SafetensorError, ValueError, KeyError, RecursionError):
        raise ServingError("scorer is not valid safetensors with n-grams") from None
    if not isinstance(grams, list) or not all(isinstance(gram, str) for gram in grams):
        raise ServingError("scorer's n-grams are not a list of texts")
    if len(set(grams)) != len(grams):
        raise ServingError("scorer holds an n-gram twice")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    try:
        return Scorer.from_tensors(tensors, grams)
    except ValueError as error:
        raise ServingError(str(error)) from None


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Raise ServingError unless the tensor is one of a scorer's, with numbers that it may hold."""
    if name not in _DIMENSIONS:
        raise ServingError("scorer holds a tensor of an unknown name")
    wanted = torch.int64 if name in _WHOLE else torch.float32
    if tensor.dtype != wanted or tensor.dim() != _DIMENSIONS[name]:
        raise ServingError(
            f"scorer's {name} is {tensor.dim()}-dimensional {tensor.dtype}, "
            f"expected {_DIMENSIONS[name]} dimensions of {wanted}"
        )
    if name in _WHOLE:
        return
    sizes = torch.linalg.vector_norm(tensor, dim=1) if tensor.dim() == 2 else tensor.abs()
    if not bool((sizes <= _LIMITS.get(name, _LARGEST)).all()):  # also false for NaN
        raise ServingError(f"scorer's {name} holds a number that is not finite or too large")


def _check_answers(answers: AnswerSentences, prototypes: Tensor) -> None:
    count, faqs = len(answers.faqs), len(prototypes)
    if answers.vectors.shape != (count, prototypes.shape[1]) or not count:
        raise ValueError(
            f"scorer's answer sentences are {tuple(answers.vectors.shape)}, of {count} FAQs"
        )
    if not 0 <= int(answers.faqs.min()) <= int(answers.faqs.max()) < faqs:
        raise ValueError(f"scorer's answer sentences name an FAQ beyond its {faqs}")


def _check(prototypes: Tensor, head: Linear | None, letters: CharacterView) -> None:
    faqs = len(prototypes)
    if head is not None and (head.weight.shape != prototypes.shape or head.bias.shape != (faqs,)):
        raise ValueError(
            f"scorer's head is {tuple(head.weight.shape)}, its prototypes {tuple(prototypes.shape)}"
        )
    if len(letters.starts) != len(letters.grams) + 1 or len(letters.idf) != len(letters.grams):
        raise ValueError(f"scorer's table of letters is not of its {len(letters.grams)} n-grams")
    if not faqs:
        raise ValueError("scorer has no FAQ")
    ends = letters.starts.tolist()
    if ends != sorted(ends) or ends[0] != 0 or ends[-1] != len(letters.faqs):
        raise ValueError("scorer's table of letters has starts that do not fit its entries")
    if len(letters.weights) != len(letters.faqs):
        raise ValueError("scorer's table of letters has not one weight for each entry")
    if len(letters.faqs) and not 0 <= int(letters.faqs.min()) <= int(letters.faqs.max()) < faqs:
        raise ValueError(f"scorer's table of letters names an FAQ beyond its {faqs}")


def _evidence(views: Mapping[str, Tensor]) -> Tensor:
    """The weighted mean of the views' best scores, [queries]."""
    weights = evidence_weights(views)
    return torch.stack([weight * views[name].amax(1) for name, weight in weights.items()]).sum(0)


def ranking_weights(views: Collection[str]) -> dict[str, float]:
    """Weights of the views that a tenant has, in the ranking of its FAQs."""
    weights = {
        "cosine": 1.0 - HEAD_IN_RANKING if "head" in views else 1.0,
        "head": HEAD_IN_RANKING,
        "characters": CHARACTERS_IN_RANKING,
        "answers": ANSWERS_IN_RANKING,
    }
    return {name: weight for name, weight in weights.items() if name in views}


def evidence_weights(views: Collection[str]) -> dict[str, float]:
    """Weights of the views that a tenant has, in the evidence; they sum to 1."""
    of_letters = CHARACTERS_IN_EVIDENCE if "head" in views else CHARACTERS_OF_QUESTIONS_IN_EVIDENCE
    weights = {"cosine": 1.0, "characters": of_letters, "answers": ANSWERS_IN_EVIDENCE}
    weights = {name: weight for name, weight in weights.items() if name in views}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def standardised(scores: Float[Tensor, "queries faqs"]) -> Float[Tensor, "queries faqs"]:
    """Each query's scores less their mean, over their standard deviation; zero where they agree."""
    centred = scores - scores.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return centred / spread.clamp(min=1e-6)


def fit_scorer(
    rows: Texts,
    num_faqs: int,
    *,
    unlabelled: Float[Tensor, "unlabelled d"],
    negatives: Float[Tensor, "negatives d"],
    answers: AnswerSentences | None = None,
) -> Scorer:
    """Fit all views on a tenant's rows, embedded with one adapter.

    Args:
        rows: every FAQ's question and its queries.
        unlabelled: queries of the tenant that nobody labelled; may be empty.
        negatives: public texts of other domains, which stand for "none"; may be empty.
        answers: None where no FAQ has one.

    Raises:
        ValueError: an FAQ has no row.
    """
    counts = torch.bincount(rows.labels, minlength=num_faqs)
    if len(counts) != num_faqs or not bool((counts > 0).all()):
        raise ValueError(f"each of the {num_faqs} FAQs needs a row, and no row another FAQ")
    own = centroids(rows.vectors, rows.labels, num_faqs)
    prototypes = refine(own, counts, unlabelled, negatives)
    head = None
    if len(rows.labels) > num_faqs:
        targets = F.one_hot(rows.labels, num_faqs).to(prototypes.dtype)
        soft = SOFT_WEIGHT * shares(prototypes, unlabelled, negatives)
        head = fit_logistic_head(
            torch.cat([rows.vectors, unlabelled]),
            torch.cat([targets, soft]),
            ANCHOR * prototypes,
        )
    letters = CharacterView.fit(rows.texts, rows.labels.tolist(), num_faqs)
    return Scorer(prototypes, head, letters, answers)


@dataclass(frozen=True)
class HeldOutScores:
    """Labelled queries, each scored by a scorer that was fitted without it."""

    rows: Int[Tensor, " held"]
    """Their places among the tenant's rows."""
    gold: Int[Tensor, " held"]
    scores: Scores

    def losses(self, temperature: float) -> Float[Tensor, " held"]:
        """Cross-entropy of the right FAQ, in nats."""
        return F.cross_entropy(self.scores.total / temperature, self.gold, reduction="none")


def cross_validate(
    rows: Texts,
    folds: Int[Tensor, " rows"],
    num_faqs: int,
    *,
    unlabelled: Float[Tensor, "unlabelled d"],
    negatives: Float[Tensor, "negatives d"],
    answers: AnswerSentences | None = None,
    vectors_of_folds: Sequence[Tensor] = (),
) -> HeldOutScores:
    """Score each held-out row by a scorer of the other rows.

    Args:
        folds: the fold that holds a row out, -1 for none (questions).
        vectors_of_folds: where an adapter was trained on rows, what each fold's embeds the rows to,
            [rows, d]; none: `rows.vectors` know no label.
    """
    held, gold, totals, views = [], [], [], []
    for fold in range(int(folds.max()) + 1 if len(folds) else 0):
        of_fold = replace(rows, vectors=vectors_of_folds[fold]) if vectors_of_folds else rows
        scorer = fit_scorer(
            of_fold.select(folds != fold),
            num_faqs,
            unlabelled=unlabelled,
            negatives=negatives,
            answers=answers,
        )
        out = of_fold.select(folds == fold)
        scores = scorer(out.vectors, out.texts)
        held.append((folds == fold).nonzero().flatten())
        gold.append(out.labels)
        totals.append(scores.total)
        views.append(scores.views)
    if not held:
        none = torch.zeros(0, dtype=torch.int64)
        return HeldOutScores(none, none, Scores(torch.zeros(0, num_faqs), {}))
    names = set.intersection(*(set(v) for v in views))
    joined = {name: torch.cat([v[name] for v in views]) for name in sorted(names)}
    return HeldOutScores(torch.cat(held), torch.cat(gold), Scores(torch.cat(totals), joined))
