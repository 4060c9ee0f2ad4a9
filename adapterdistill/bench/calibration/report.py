"""The command `adapterdistill bench calibration` and its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from adapterdistill.bench.calibration.study import (
    CALIBRATED,
    CONSTANT,
    COSINE,
    SIZES,
    Case,
    measure_calibration,
)
from adapterdistill.bench.sizes import named_size
from adapterdistill.errors import DataError
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import Report, document, setting, table, write_report

_ECE_BINS = 10
_NAMES = (COSINE, CONSTANT, CALIBRATED)


def calibration_command(*, data: Path, out: Path, size: str, encoder: EncoderOptions) -> Report:
    """Measure and write the report.

    Raises:
        DataError: `data` holds no tenants, or none that could be calibrated.
    """
    torch.set_num_threads(1)
    loaded, chosen = encoder.load(), named_size(SIZES, size)
    folder = data / "tenants" if (data / "tenants").is_dir() else data
    cases = measure_calibration(loaded, folder, out / "tenants", chosen)
    if not cases:
        raise DataError("no tenant here has labelled queries to hold out")
    found = {
        "benchmark": "calibration",
        "size": {"name": size, **asdict(chosen)},
        "groups": [
            summary(group) for group in by_group(cases) if any(len(case.right) for case in group)
        ],
        "cases": [figures(case) for case in cases],
        "environment": environment(loaded),
    }
    return write_report(out, found, markdown(found))


def brier(confidence: Tensor, right: Tensor) -> float:
    """Mean squared distance of the confidence from what came (Brier, 1950)."""
    return float((confidence.double() - right.double()).square().mean())


def expected_calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Distance between mean confidence and share of right over 10 bins of equal width, weighted by
    their rows (Guo et al., 2017). Of few rows it is above 0 by chance alone."""
    place = (confidence.double() * _ECE_BINS).long().clamp(0, _ECE_BINS - 1)
    gaps = torch.zeros(_ECE_BINS, dtype=torch.float64)
    gaps.index_add_(0, place, confidence.double() - right.double())
    return float(gaps.abs().sum()) / len(right)


def figures(case: Case) -> dict[str, Any]:
    """One case in numbers."""
    found = case.calibration
    return {
        "tenant": case.tenant,
        "arrival": asdict(case.arrival),
        "seed": case.seed,
        "knows_out_of_scope": case.knows_out_of_scope,
        "held_out_rows": found.rows,
        "test_rows": len(case.right),
        "threshold": case.threshold,
        "expected_error": found.expected_error,
        "error_bound": found.error_bound,
        "error": case.error,
        "error_unknown": case.error_unknown,
        "share_answered_held_out": found.share_answered,
        "share_answered": float(case.answered.double().mean()),
        "brier": {name: brier(case.confidence[name], case.right) for name in _NAMES},
        "ece": {
            name: expected_calibration_error(case.confidence[name], case.right) for name in _NAMES
        },
        "drift": {"own": asdict(case.own), "strange": asdict(case.strange)},
    }


def by_group(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases of one arrival that know, or do not know, of out-of-scope queries."""
    groups: dict[tuple[int, bool], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.arrival.per_faq, case.knows_out_of_scope), []).append(case)
    return [groups[key] for key in sorted(groups)]


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """A group in numbers: means over its cases, pooled rows where it says so."""
    cases = [case for case in cases if len(case.right)]
    judged = [(case, case.error) for case in cases if case.error is not None]
    unknown = [case.error_unknown for case in cases if case.error_unknown is not None]
    right = torch.cat([case.right for case in cases])

    def over_cases(of: Callable[[Tensor, Tensor], float]) -> dict[str, float]:
        return {name: mean(of(c.confidence[name], c.right) for c in cases) for name in _NAMES}

    return {
        "per_faq": cases[0].arrival.per_faq,
        "knows_out_of_scope": cases[0].knows_out_of_scope,
        "cases": len(cases),
        "held_out_rows": [f(c.calibration.rows for c in cases) for f in (min, max)],
        "test_rows": len(right),
        "brier": over_cases(brier),
        "ece": over_cases(expected_calibration_error),
        "ece_pooled": {
            name: expected_calibration_error(torch.cat([c.confidence[name] for c in cases]), right)
            for name in _NAMES
        },
        "expected_error": mean(case.calibration.expected_error for case, _ in judged),
        "error_bound": mean(case.calibration.error_bound for case, _ in judged),
        "error": mean(error for _, error in judged),
        "judged": len(judged),
        "under_bound": sum(error <= case.calibration.error_bound for case, error in judged),
        "error_unknown": mean(unknown) if unknown else None,
        "unknown": len(unknown),
        "share_answered_held_out": mean(case.calibration.share_answered for case in cases),
        "share_answered": mean(float(case.answered.double().mean()) for case in cases),
        "comparable": sum(case.own.psi is not None for case in cases),
        "own_drifted": sum(case.own.drifted for case in cases),
        "strange_drifted": sum(case.strange.drifted for case in cases),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    groups = found["groups"]
    parts = [
        "Calibration",
        "Means over tenants and seeds, on test rows that nothing was chosen on.",
        "## Confidence",
        "Expected calibration error and Brier score (lower is better) of the cosine taken for a"
        " probability, of the held-out share of right answers, and of the calibrated confidence.",
        table(
            ("arrival", "cases", "held-out rows", "test rows",
             *(f"{of} {name}" for of in ("ECE", "pooled ECE", "Brier") for name in _NAMES)),
            (
                (_arrival(g), g["cases"], "{} to {}".format(*g["held_out_rows"]), g["test_rows"],
                 *(f"{g[of][name]:.3f}" for of in ("ece", "ece_pooled", "brier")
                   for name in _NAMES))
                for g in groups
            ),
        ),
        "## Error among the answered, in %",
        "`under the bound`: tenants whose error on test rows lies under the stated 95% bound."
        " `half out of scope`: the error if every second query were out of scope, where none such"
        " was held out.",
        table(
            ("arrival", "stated", "bound", "on test rows", "under the bound", "half out of scope",
             "answered, held out", "answered, test rows"),
            (
                (_arrival(g), _percent(g["expected_error"]), _percent(g["error_bound"]),
                 _percent(g["error"]), f"{g['under_bound']} of {g['judged']}",
                 _percent(g["error_unknown"]), _percent(g["share_answered_held_out"]),
                 _percent(g["share_answered"]))
                for g in groups
            ),
        ),
        "## Drift alarms",
        table(
            ("arrival", "own test rows: none is due", "another tenant's queries: one is due"),
            (
                (_arrival(g), f"{g['own_drifted']} of {g['comparable']}",
                 f"{g['strange_drifted']} of {g['comparable']}")
                for g in groups
            ),
        ),
        setting({**found["size"], **found["environment"]}),
    ]  # fmt: skip
    return document(*parts)


def _arrival(group: Mapping[str, Any]) -> str:
    knows = ", and some out of scope" if group["knows_out_of_scope"] else ""
    return f"{group['per_faq']} queries an FAQ{knows}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
