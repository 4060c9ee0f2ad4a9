"""What a tenant's top scores are worth, as its bundle carries it and serving reads it."""

import math
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from adapterdistill.manifest import Record

MAX_BINS = 10
LEAST_PER_BIN = 5
"""Queries a bin, on average; with fewer the index of their shift follows no law (Cochran, 1954)."""


class Calibration(Record):
    """Found on held-out queries; `adapterdistill.evaluation.calibration` says how.

    It holds for queries like those, out-of-scope ones as frequent among them, and says nothing of
    others: `serve.engine.drift` watches whether the live ones are like them.
    """

    slope: float = Field(ge=0)
    intercept: float
    """P(the best FAQ is right) = 1 / (1 + exp(-(slope * top score + intercept)))."""
    rows: int = Field(ge=1)
    """Held-out queries that all of this rests on."""
    answered: int = Field(ge=1)
    """Those of them whose top score reaches the threshold."""
    wrong: int = Field(ge=0)
    """Those answered whose best FAQ is not theirs."""
    error_bound: float = Field(ge=0, le=1)
    """The share of wrong among answered queries is below it, with 95% confidence."""
    edges: tuple[float, ...] = Field(default=(), max_length=MAX_BINS - 1)
    """Ascending: where the bins of top scores meet. An edge belongs to the bin above it."""
    counts: tuple[int, ...] = Field(default=(), max_length=MAX_BINS)
    """Held-out queries in each bin; empty where there are too few to compare with."""

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
        """Share of wrong among the answered."""
        return self.wrong / self.answered

    @property
    def share_answered(self) -> float:
        return self.answered / self.rows

    def confidence(self, top_score: float) -> float:
        """P(the best FAQ is right), in [0, 1]; never falls as the score rises."""
        # The logistic function by tanh, which cannot overflow.
        return 0.5 + 0.5 * math.tanh(0.5 * (self.slope * top_score + self.intercept))
