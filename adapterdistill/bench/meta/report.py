"""The command `adapterdistill bench meta` and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.meta import study as bench
from adapterdistill.bench.meta.domains import SIZES, read_domains
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import spread
from adapterdistill.distill.meta_kd.student import TERMS
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, document, listed, percent, table, write_report

REFERENCES = {
    bench.OWN: bench.NONE,
    bench.MIXED: bench.OWN,
    bench.META: bench.MIXED,
    bench.FEDERATED: bench.OWN,
}
"""The student with which each is compared."""


def meta_command(
    *,
    data: Path,
    leave_out: Sequence[str],
    out: Path,
    cache: Path,
    size: str,
    shape: bench.StudentShape,
    seeds: int,
    time_limit_s: float | None,
    encoder: EncoderOptions,
) -> Report:
    """Measure and write the report.

    Args:
        time_limit_s: no newcomer is begun after this; the report is of those that are there.
    """
    started = monotonic()
    torch.set_num_threads(1)
    loaded, chosen = encoder.load(), named_size(SIZES, size)
    classes, domains = read_domains(data, loaded, leave_out)
    run = bench.Newcomers(loaded, domains, classes, chosen, shape, ResultCache(cache))
    names = spread([domain.name for domain in domains], chosen.domains)
    newcomers = [domain for domain in domains if domain.name in names]
    cells: list[tuple[str, dict[str, Any]]] = []
    with phase("newcomers", seeds * len(newcomers)) as done:
        for seed in range(seeds):
            for newcomer in newcomers:
                late = time_limit_s is not None and monotonic() - started > time_limit_s
                if cells and late and not run.has(newcomer, seed=seed):
                    continue
                cells.append((newcomer.name, run.of(newcomer, seed=seed)))
                done()
    found = {
        "benchmark": "meta",
        "size": {"name": size, **asdict(chosen)},
        "shape": asdict(shape),
        "terms": asdict(TERMS),
        "seeds": seeds,
        "runs": [len(cells), seeds * len(newcomers)],
        "domains": {
            d.name: {"train": len(d.train), "valid": len(d.valid), "test": len(d.test)}
            for d in domains
        },
        "figures": figures(cells, chosen.shares),
        "environment": environment(loaded),
    }
    return write_report(out, found, markdown(found))


def figures(
    cells: Sequence[tuple[str, Mapping[str, Any]]], shares: Sequence[float]
) -> list[dict[str, Any]]:
    """One row a share and student: macro accuracies, and the gain over its reference.

    Args:
        cells: (newcomer, its hits), one a seed and newcomer.
    """
    rows = []
    for share in shares:
        hits = {
            (who, kind): _by_domain(cells, who, kind, share)
            for who in ("students", "teachers")
            for kind in bench.STUDENTS
        }
        for kind in bench.STUDENTS:
            student = hits["students", kind]
            if not student:
                continue
            row: dict[str, Any] = {
                "share": share,
                "student": kind,
                "accuracy": _macro(student, "test"),
                "valid_accuracy": _macro(student, "valid"),
                "teacher_accuracy": _macro(hits["teachers", kind], "test"),
                "by_domain": {name: float(of["test"].mean()) for name, of in student.items()},
            }
            reference = hits["students", REFERENCES[kind]] if kind in REFERENCES else {}
            if reference:
                differences = [student[name]["test"] - reference[name]["test"] for name in student]
                row["over"] = REFERENCES[kind]
                row["gain"] = asdict(paired_bootstrap(differences))
            rows.append(row)
    return rows


def _by_domain(
    cells: Sequence[tuple[str, Mapping[str, Any]]], who: str, kind: str, share: float
) -> dict[str, dict[str, Tensor]]:
    """Each row's share of seeds in which it was hit, by domain and part."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for name, cell in cells:
        of_kind = cell[who].get(kind, {}).get(f"{share:g}")
        for part, hits in (of_kind or {}).items():
            parts = found.setdefault(name, {})
            parts.setdefault(part, []).append(torch.tensor(hits, dtype=torch.float64))
    return {
        name: {part: torch.stack(of_seeds).mean(0) for part, of_seeds in parts.items()}
        for name, parts in found.items()
    }


def _macro(by_domain: Mapping[str, Mapping[str, Tensor]], part: str) -> float | None:
    means = [float(parts[part].mean()) for parts in by_domain.values()]
    return sum(means) / len(means) if means else None


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    size, env = found["size"], found["environment"]
    aim = [row for row in found["figures"] if row["student"] == bench.META]
    parts = [
        "Meta-KD",
        f"{len(found['figures'][0]['by_domain'])} domains in turn are the newcomer, with a share "
        f"of its training rows; {found['seeds']} seed(s), {found['runs'][0]} of "
        f"{found['runs'][1]} runs. Test accuracy in %, the mean over "
        "newcomers; gains in points with 95% paired bootstrap intervals over newcomers, then rows.",
        table(
            ("newcomer's rows", "student of", "student", "its teacher", "gain over"),
            (
                (
                    f"{100 * row['share']:g}%",
                    row["student"],
                    percent(row["accuracy"]),
                    percent(row["teacher_accuracy"]),
                    _gain(row),
                )
                for row in found["figures"]
            ),
        ),
        "Aim: Meta-KD above the mixed-domain teacher's student, most where rows are fewest. "
        + "; ".join(f"{100 * row['share']:g}%: {_gain(row)}" for row in aim)
        + ".",
        "## How it was run",
        "Both teachers over domains know the other domains' rows only, and their students learn "
        "from these and from the newcomer's own. With no row of its own the newcomer has neither "
        "labels nor a teacher of its own. In the federated form rows stay with their owners: the "
        "teacher is the mixture of the others' adapters, its student reads own and public texts. "
        "Adapters of owners are trained once, so the newcomer's prototypes of all its rows are "
        "among those that weigh the others' rows.",
        f"Students: {found['shape']['layers']} layers of {found['shape']['heads']} heads, "
        f"{size['student_steps']} steps; all start alike. Loss: "
        + ", ".join(f"{name} {value:g}" for name, value in found["terms"].items())
        + ".",
        table(
            ("domain", "train", "valid", "test"),
            ((name, d["train"], d["valid"], d["test"]) for name, d in found["domains"].items()),
        ),
        listed(env),
    ]
    return document(*parts)


def _gain(row: Mapping[str, Any]) -> str:
    if "gain" not in row:
        return ""
    low, mean, high = (100 * row["gain"][key] for key in ("low", "mean", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] over {row['over']}"
