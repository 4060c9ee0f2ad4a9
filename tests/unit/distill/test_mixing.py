"""Private by mixing: the noise suffices, and one query moves the sums by one clip at most."""

import math

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.distill.adapter_distillation import public_texts
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.private.mixing import (
    CLIP,
    Guarantee,
    mixed_student,
    private_shares,
    query_scores,
)
from tests.tiny_encoders import random_adapter

# dp_accounting 0.6.0: calibrate_dp_mechanism(PLDAccountant, GaussianDpEvent, epsilon, 1e-5)
ACCOUNTED = {1.0: 3.7306325590, 2.0: 1.9938124669, 4.0: 1.0811618513, 8.0: 0.6002290827}


@pytest.mark.parametrize("epsilon", ACCOUNTED)
def test_the_noise_is_what_an_accountant_asks_for(epsilon: float) -> None:
    assert Guarantee(epsilon, 1e-5).noise == pytest.approx(ACCOUNTED[epsilon], rel=1e-3)


def test_more_privacy_needs_more_noise_and_none_needs_none() -> None:
    noises = [Guarantee(epsilon, 1e-5).noise for epsilon in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)]
    assert noises == sorted(noises, reverse=True) and noises[-1] > 0
    assert Guarantee(math.inf, 1e-5).noise == 0


def tokenised(encoder: Encoder, texts: list[str], labels: list[int]) -> TrainingRows:
    return TrainingRows(encoder.tokenize(texts), torch.tensor(labels))


def test_a_query_has_scores_of_its_own_that_are_clipped(tiny_encoder: Encoder) -> None:
    teachers = [random_adapter(tiny_encoder, seed=n, scale=0.3) for n in range(4)]
    questions = tokenised(tiny_encoder, public_texts()[:5], list(range(5)))
    texts = public_texts()[5:25]
    queries = tokenised(tiny_encoder, texts, [n % 5 for n in range(20)])
    scores = query_scores(tiny_encoder, teachers, questions, queries)
    assert scores.shape == (20, 4)
    assert bool((scores.norm(dim=1) <= CLIP + 1e-9).all()) and float(scores.abs().max()) > 0.01
    fewer = tokenised(tiny_encoder, texts[1:], [n % 5 for n in range(1, 20)])
    without = query_scores(tiny_encoder, teachers, questions, fewer)
    assert torch.allclose(without, scores[1:], atol=1e-4)
    assert float((scores.sum(0) - without.sum(0)).norm()) <= CLIP + 1e-3


def test_shares_follow_the_scores_and_noise_alone_gives_equal_ones() -> None:
    scores = torch.zeros(30, 4, dtype=torch.float64)
    scores[:, 2] = 0.5
    scores -= scores.mean(1, keepdim=True)
    exact = private_shares(scores, Guarantee(math.inf, 1e-5), seed=1)
    assert int(exact.argmax()) == 2 and float(exact.sum()) == pytest.approx(1)
    near = private_shares(scores, Guarantee(8.0, 1e-5), seed=1)
    assert int(near.argmax()) == 2
    assert torch.equal(near, private_shares(scores, Guarantee(8.0, 1e-5), seed=1))
    assert not torch.equal(near, private_shares(scores, Guarantee(8.0, 1e-5), seed=1 + (1 << 70)))
    drowned = [
        private_shares(0 * scores, Guarantee(0.01, 1e-5), seed=seed).max() for seed in range(20)
    ]
    assert sum(float(one) == 0.25 for one in drowned) >= 8


def test_the_student_is_made_of_teachers_shares_and_public_texts(tiny_encoder: Encoder) -> None:
    teachers = [random_adapter(tiny_encoder, seed=n, scale=0.3) for n in range(3)]
    shares = torch.tensor([0.5, 0.3, 0.2])
    first, again = (mixed_student(tiny_encoder, teachers, shares, steps=0) for _ in range(2))
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    distilled = mixed_student(tiny_encoder, teachers, shares, steps=2)
    assert not torch.equal(distilled.up_weight, first.up_weight)
    assert not distilled.up_weight.requires_grad
