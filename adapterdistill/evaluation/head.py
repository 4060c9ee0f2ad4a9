"""The head: logistic regression on a tenant's rows, whose weights are anchored at the prototypes.

A matrix and a bias, fitted once at the owner in float64.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

INVERSE_STRENGTH = 10.0
"""C of scikit-learn's logistic regression: the penalty is ||W - A||^2 / (2 C)."""
ANCHOR = 5.0
"""Factor of the prototypes that the weights are pulled to."""
SOFT_WEIGHT = 0.1
"""Weight of an unlabelled query against a labelled one."""
_MOST_STEPS = 200


@dataclass(frozen=True)
class Linear:
    """scores = x @ weight.T + bias."""

    weight: Float[Tensor, "faqs d"]
    bias: Float[Tensor, " faqs"]

    def __call__(self, vectors: Float[Tensor, "queries d"]) -> Float[Tensor, "queries faqs"]:
        return torch.addmm(self.bias, vectors, self.weight.T)


def fit_logistic_head(
    vectors: Float[Tensor, "rows d"],
    targets: Float[Tensor, "rows faqs"],
    anchor: Float[Tensor, "faqs d"],
    *,
    inverse_strength: float = INVERSE_STRENGTH,
) -> Linear:
    """Multinomial logistic regression whose weights are pulled to `anchor` instead of to zero.

    Minimises sum_i sum_c targets_ic * -log softmax(W x_i + b)_c + ||W - anchor||^2 / (2 C) with b
    free, by L-BFGS. With a zero anchor and one-hot targets it is scikit-learn's
    `LogisticRegression(C=C)`. W - anchor lies in the span of the rows, so that the search runs in
    as many dimensions as there are rows, where these are fewer.

    Args:
        targets: each row's weight on each FAQ; a labelled row has a 1.

    Raises:
        ValueError: shapes disagree, or there is no row.
    """
    x, y, start = vectors.double(), targets.double(), anchor.double()
    if not len(x) or len(x) != len(y) or start.shape != (y.shape[1], x.shape[1]):
        raise ValueError(
            f"a head needs rows with targets and an anchor of one width, got vectors "
            f"{tuple(x.shape)}, targets {tuple(y.shape)}, anchor {tuple(start.shape)}"
        )
    basis, reduced = _in_span(x)
    offset, rows, wanted = (part.numpy() for part in (x @ start.T, reduced, y))
    mass = wanted.sum(1, keepdims=True)
    faqs, width = wanted.shape[1], rows.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w, b = flat[:-faqs].reshape(faqs, width), flat[-faqs:]
        logits = offset + rows @ w.T + b
        logits -= logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        slope = np.exp(log_p) * mass - wanted
        value = np.square(w).sum() / (2 * inverse_strength) - (wanted * log_p).sum()
        by_weight = slope.T @ rows + w / inverse_strength
        return float(value), np.concatenate([by_weight.ravel(), slope.sum(0)])

    # SciPy's own loop: torch.optim.LBFGS takes five times as long for heads of this size.
    found = minimize(
        loss,
        np.zeros(faqs * (width + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "gtol": 1e-6, "ftol": 0},
    )
    w, b = torch.from_numpy(found.x[:-faqs].reshape(faqs, width)), torch.from_numpy(found.x[-faqs:])
    return Linear((start + w @ basis.T).float(), b.float())


def _in_span(x: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the rows' span, [d, m], and the rows in it, [rows, m]."""
    if len(x) >= x.shape[1]:
        return torch.eye(x.shape[1], dtype=x.dtype), x
    basis, triangle = torch.linalg.qr(x.T)
    return basis, triangle.T
