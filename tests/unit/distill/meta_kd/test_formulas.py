"""Meta-KD's formulas against plain float64 sums, and the defects of public implementations."""

import math

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.backbone import Encoder, pack
from adapterdistill.distill.meta_kd.formulas import (
    DomainHead,
    Prototypes,
    corrupted,
    meta_distillation_loss,
    meta_teacher_loss,
    row_distance,
    row_weights,
    typicality,
)

GENERATOR = torch.Generator().manual_seed(0)
ROWS, CLASSES, DOMAINS, WIDTH = 24, 2, 3, 8
EMBEDDINGS = F.normalize(torch.randn(ROWS, WIDTH, generator=GENERATOR), dim=-1)
LABELS = torch.arange(ROWS) % CLASSES
IN_DOMAIN = torch.arange(ROWS) // 8


def prototypes_of(rows: list[int], *, domains: int = DOMAINS) -> Prototypes:
    return Prototypes.of(
        EMBEDDINGS[rows], LABELS[rows], IN_DOMAIN[rows], num_classes=CLASSES, num_domains=domains
    )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def test_a_prototype_is_the_mean_of_a_class_in_a_domain() -> None:
    found = prototypes_of(list(range(ROWS)))
    for domain in range(DOMAINS):
        for label in range(CLASSES):
            rows = (domain == IN_DOMAIN) & (label == LABELS)
            expected = EMBEDDINGS[rows].double().mean(0)
            assert found.means[domain, label].double() == pytest.approx(expected, abs=1e-6)
            assert int(found.counts[domain, label]) == int(rows.sum())


@pytest.mark.parametrize("own_share", [0.0, 0.3, 0.5, 1.0])
def test_typicality_is_the_weighted_cosine_to_the_class_here_and_elsewhere(
    own_share: float,
) -> None:
    prototypes = prototypes_of(list(range(ROWS)))
    found = typicality(EMBEDDINGS, LABELS, IN_DOMAIN, prototypes, own_share=own_share)
    for row in range(ROWS):
        label, domain = int(LABELS[row]), int(IN_DOMAIN[row])
        own = cosine(EMBEDDINGS[row], prototypes.means[domain, label])
        others = [
            cosine(EMBEDDINGS[row], prototypes.means[k, label])
            for k in range(DOMAINS)
            if k != domain
        ]
        expected = own_share * own + (1 - own_share) / (DOMAINS - 1) * sum(others)
        assert float(found[row]) == pytest.approx(expected, abs=1e-5)
    assert float(found.min()) >= -1 and float(found.max()) <= 1


def test_a_domain_without_the_class_takes_no_part_in_typicality() -> None:
    rows = [r for r in range(ROWS) if not (IN_DOMAIN[r] == 1 and LABELS[r] == 0)]
    prototypes = prototypes_of(rows)
    found = typicality(EMBEDDINGS[:1], LABELS[:1], IN_DOMAIN[:1], prototypes)
    own, other = (cosine(EMBEDDINGS[0], prototypes.means[k, 0]) for k in (0, 2))
    assert float(found[0]) == pytest.approx((own + other) / 2, abs=1e-5)
    alone = prototypes_of([r for r in range(ROWS) if IN_DOMAIN[r] == 0])
    found = typicality(EMBEDDINGS[:1], LABELS[:1], IN_DOMAIN[:1], alone)
    assert float(found[0]) == pytest.approx(cosine(EMBEDDINGS[0], alone.means[0, 0]), abs=1e-5)


def test_a_class_that_its_own_domain_lacks_is_typical_by_the_others() -> None:
    rows = [r for r in range(ROWS) if IN_DOMAIN[r] != 0]
    prototypes = prototypes_of(rows)
    found = typicality(EMBEDDINGS[:1], LABELS[:1], IN_DOMAIN[:1], prototypes)
    others = [cosine(EMBEDDINGS[0], prototypes.means[k, 0]) for k in (1, 2)]
    assert float(found[0]) == pytest.approx(sum(others) / 2, abs=1e-5)


def test_with_two_domains_the_authors_mean_of_centroids_agrees_at_one_half() -> None:
    """Their code averages the others' centroids, the paper their cosines: one other is both."""
    rows = [r for r in range(ROWS) if IN_DOMAIN[r] < 2]
    prototypes = prototypes_of(rows, domains=2)
    found = typicality(EMBEDDINGS[rows], LABELS[rows], IN_DOMAIN[rows], prototypes)
    for place, row in enumerate(rows):
        label, domain = int(LABELS[row]), int(IN_DOMAIN[row])
        own = cosine(EMBEDDINGS[row], prototypes.means[domain, label])
        mean_of_others = prototypes.means[[1 - domain]].mean(0)[label]
        expected = 0.5 * (own + cosine(EMBEDDINGS[row], mean_of_others))
        assert float(found[place]) == pytest.approx(expected, abs=1e-5)


def test_owners_prototypes_joined_are_those_of_all_rows_together() -> None:
    parts = []
    for domain in range(DOMAINS):
        rows = domain == IN_DOMAIN
        zero = torch.zeros(int(rows.sum()), dtype=torch.int64)
        parts.append(
            Prototypes.of(EMBEDDINGS[rows], LABELS[rows], zero, num_classes=CLASSES, num_domains=1)
        )
    joined, together = Prototypes.joined(parts), prototypes_of(list(range(ROWS)))
    assert torch.equal(joined.counts, together.counts)
    assert torch.allclose(joined.means, together.means, atol=1e-6)


def test_shared_prototypes_are_noised_by_what_one_row_can_move_a_mean() -> None:
    counts = torch.tensor([[4, 0], [16, 8]])
    means = torch.randn(2, 2, 20_000, generator=torch.Generator().manual_seed(1))
    whole = Prototypes(means * (counts > 0)[..., None], counts)
    noised = whole.noised(1.5, seed=0)
    for domain, label in ((0, 0), (1, 0), (1, 1)):
        spread = float((noised.means - whole.means)[domain, label].std())
        assert spread == pytest.approx(1.5 * 2 / int(counts[domain, label]), rel=0.05)
    assert not noised.means[0, 1].any()
    assert torch.equal(noised.means, whole.noised(1.5, seed=0).means)
    assert not torch.equal(noised.means, whole.noised(1.5, seed=1).means)


def test_a_row_weighs_from_half_where_the_teacher_is_sure_to_less_where_it_is_wrong() -> None:
    typical = torch.tensor([0.4, 0.4, -1.0])
    found = row_weights(typical, torch.tensor([1.0, 0.0, 0.7]))
    assert found.tolist() == pytest.approx([1.4 / 2, 1.4 / (math.e + 1), 0.0], abs=1e-6)


def test_corrupted_domains_are_the_batch_s_own_in_another_order() -> None:
    found = corrupted(IN_DOMAIN, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == sorted(IN_DOMAIN.tolist())
    assert not torch.equal(found, IN_DOMAIN)


def random_logits(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_teacher_s_loss_weighs_each_row_in_both_terms() -> None:
    logits, guesses = random_logits(6, 2, seed=1), random_logits(6, 3, seed=2)
    labels, wrong = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([2, 0, 1, 1, 0, 2])
    typical = torch.linspace(-0.2, 0.9, 6)
    expected = 0.0
    for i in range(6):
        task = -logits[i].double().log_softmax(-1)[labels[i]]
        domain = -guesses[i].double().log_softmax(-1)[wrong[i]]
        expected += float(typical[i]) * float(task + 0.5 * domain) / 6
    found = meta_teacher_loss(logits, labels, guesses, wrong, typical)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_without_the_domain_and_with_even_weights_the_teacher_s_loss_is_cross_entropy() -> None:
    logits, labels = random_logits(6, 2, seed=1), torch.tensor([0, 1, 1, 0, 1, 0])
    found = meta_teacher_loss(
        logits, labels, random_logits(6, 3, seed=2), labels, torch.ones(6), domain_weight=0.0
    )
    assert float(found) == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-6)


def test_permuting_the_rows_weights_changes_the_student_s_loss() -> None:
    """Public code takes the mean before the weight, which then only scales the batch."""
    hidden, attention, transferable, soft = random_logits(4, 6, seed=3).abs()
    weights = torch.linspace(0.2, 0.8, 6)
    found = meta_distillation_loss(weights, hidden, attention, transferable, soft)
    expected = (weights * (hidden + attention + 0.5 * transferable) + soft).double().mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    permuted = meta_distillation_loss(weights.flip(0), hidden, attention, transferable, soft)
    assert abs(float(permuted) - float(found)) > 1e-3


def test_a_student_that_is_its_teacher_has_no_distance_and_the_teacher_no_gradient() -> None:
    hidden = random_logits(7, 4, seed=5).requires_grad_()
    student = hidden.detach().clone().requires_grad_()
    rows = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = row_distance(student, hidden, rows, (3, 4))
    assert found.tolist() == [0.0, 0.0]
    row_distance(student + 1, hidden, rows, (3, 4)).sum().backward()
    assert hidden.grad is None and student.grad is not None
    assert row_distance(student + 1, hidden, rows, (3, 4)).tolist() == pytest.approx([1, 1])


def test_a_row_s_embedding_is_the_same_beside_longer_rows(tiny_encoder: Encoder) -> None:
    """The authors' code averages padding with the tokens."""
    short, long = [2, 7, 8, 3], [2, *range(10, 40), 3]
    alone = tiny_encoder.embed(pack([short]))
    beside = tiny_encoder.embed(pack([short, long]))[:1]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_the_domain_head_is_the_formula(tiny_encoder: Encoder) -> None:
    head = DomainHead(WIDTH, DOMAINS, seed=0)
    pooled, domains = EMBEDDINGS[:4], torch.tensor([0, 1, 2, 1])
    inside = pooled + head.domain.weight[domains]
    feature = inside @ head.feature.weight.T + head.feature.bias
    expected = torch.tanh(feature) @ head.guess.weight.T + head.guess.bias
    assert torch.allclose(head.transferable(pooled, domains), feature, atol=1e-6)
    assert torch.allclose(head(pooled, domains), expected, atol=1e-6)
    other = DomainHead(WIDTH, DOMAINS, seed=0)
    assert torch.equal(head.guess.weight, other.guess.weight)
