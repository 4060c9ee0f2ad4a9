import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from adapterdistill.evaluation.head import Linear, fit_logistic_head


def rows(num_rows: int, num_faqs: int, d: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-length vectors around unit-length means, labels, and the means."""
    generator = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(num_faqs, d, generator=generator), dim=-1)
    labels = torch.arange(num_rows) % num_faqs
    noise = torch.randn(num_rows, d, generator=generator) * 0.2
    return F.normalize(means[labels] + noise, dim=-1), labels, means


def minimised(x: Tensor, targets: Tensor, anchor: Tensor, strength: float) -> Linear:
    """The same objective in all dimensions, by a search that keeps the whole inverse Hessian."""
    xs, ys, start = (part.double().numpy() for part in (x, targets, anchor))
    faqs, d = start.shape

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[: faqs * d].reshape(faqs, d), flat[faqs * d :]
        logits = xs @ w.T + b
        logits -= logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        slope = np.exp(log_p) * ys.sum(1, keepdims=True) - ys
        penalty = w - start
        value = -(ys * log_p).sum() + (penalty**2).sum() / (2 * strength)
        return value, np.concatenate([(slope.T @ xs + penalty / strength).ravel(), slope.sum(0)])

    found = minimize(
        loss, np.zeros(faqs * d + faqs), jac=True, method="BFGS", options={"maxiter": 5000,
        "gtol": 1e-8},
    ).x  # fmt: skip
    weight, bias = found[: faqs * d].reshape(faqs, d), found[faqs * d :]
    return Linear(torch.from_numpy(weight), torch.from_numpy(bias))


@pytest.mark.parametrize(("num_rows", "d"), [(12, 40), (60, 10)])
@pytest.mark.parametrize("factor", [0.0, 5.0])
def test_head_minimises_its_objective(num_rows: int, d: int, factor: float) -> None:
    x, labels, means = rows(num_rows, 4, d)
    targets = F.one_hot(labels, 4).float()
    head = fit_logistic_head(x, targets, factor * means)
    expected = minimised(x, targets, factor * means, 10.0)
    fresh = rows(30, 4, d, seed=1)[0]
    # A number added to all FAQs' scores changes no probability.
    torch.testing.assert_close(
        head(fresh).log_softmax(1), expected(fresh.double()).float().log_softmax(1),
        atol=2e-3, rtol=1e-3,
    )  # fmt: skip


def test_soft_targets_of_small_weight_equal_repeated_rows() -> None:
    x, labels, means = rows(12, 4, 6)
    targets = F.one_hot(labels, 4).float()
    twice = fit_logistic_head(torch.cat([x, x]), torch.cat([targets, targets]), means)
    weighted = fit_logistic_head(x, 2 * targets, means)
    torch.testing.assert_close(twice.weight, weighted.weight, atol=1e-3, rtol=1e-3)


def test_a_head_of_questions_alone_ranks_as_its_anchor() -> None:
    x = rows(5, 5, 32)[0]
    head = fit_logistic_head(x, torch.eye(5), 5 * x)
    assert torch.equal(head(x).argmax(1), torch.arange(5))


@pytest.mark.parametrize("count", [0, 3])
def test_head_refuses_rows_and_targets_that_disagree(count: int) -> None:
    with pytest.raises(ValueError, match="a head needs rows with targets"):
        fit_logistic_head(torch.zeros(count, 4), torch.zeros(2, 2), torch.zeros(2, 4))
