"""Confidence in a tenant's top scores: written into its bundle, and used by serving."""

import math
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from adapterdistill.manifest import Record

MAX_BINS = 10
LEAST_PER_BIN = 5
"""Mean queries a bin; with fewer, the drift statistic has no known law (Cochran, 1954)."""


class Calibration(Record):
    """A calibration on held-out queries, made by `adapterdistill.evaluation.calibration`.

    It holds for queries that are distributed like these, with as many out-of-scope ones.
    `serve.engine.drift` watches whether the live queries are.
    """

    slope: float = Field(ge=0)
    intercept: float
    """P(the best FAQ is right) = 1 / (1 + exp(-(slope * top score + intercept)))."""
    rows: int = Field(ge=1)
    """Number of held-out queries."""
    answered: int = Field(ge=1)
    """Number of these whose top score reaches the threshold."""
    wrong: int = Field(ge=0)
    """Number of answered queries whose best FAQ is wrong."""
    error_bound: float = Field(ge=0, le=1)
    """Upper bound of the share of wrong answers, with 95% confidence."""
    edges: tuple[float, ...] = Field(default=(), max_length=MAX_BINS - 1)
    """Ascending edges between the bins of top scores. An edge belongs to the bin above it."""
    counts: tuple[int, ...] = Field(default=(), max_length=MAX_BINS)
    """Held-out queries in each bin; empty if there are too few to compare with."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if not self.wrong <= self.answered <= self.rows:
            raise ValueError("expected wrong <= answered <= rows")
        if not self.counts and not self.edges:
            return self
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 1:
            raise ValueError("expected a count of 1 or more for each bin between the edges")
        if sum(self.counts) != self.rows:
            raise ValueError("expected the bins to hold all rows")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("expected ascending edges")
        return self

    @property
    def expected_error(self) -> float:
        """Share of wrong answers among the answered queries."""
        return self.wrong / self.answered

    @property
    def share_answered(self) -> float:
        return self.answered / self.rows

    def confidence(self, top_score: float) -> float:
        """Estimate P(the best FAQ is right), in [0, 1]; it never falls as the score rises."""
        # The logistic function, written with tanh because that cannot overflow.
        return 0.5 + 0.5 * math.tanh(0.5 * (self.slope * top_score + self.intercept))
