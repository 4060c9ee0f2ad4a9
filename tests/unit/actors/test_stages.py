"""The lines that a run prints of its stages."""

from adapterdistill.actors.records import Evaluated
from adapterdistill.actors.stages import stage_of


def evaluated(**rows: int) -> Evaluated:
    def figures(count: int) -> dict[str, object]:
        top1 = {"top1": {"value": 0.75, "count": count}}
        return {"held_out": top1, "test": {}, "difference": 0.0, "error": 0.0, "expected": 0.0}

    return Evaluated.model_validate(
        {
            "seconds": 1.0,
            "peak_rss_mb": 1.0,
            "candidates": {name: figures(count) for name, count in rows.items()},
            "choice": "own",
            "rows": 4,
            "num_faqs": 2,
            "held_out": None,
            "test": None,
            "threshold": 0.5,
        }
    )


def test_a_score_names_its_rows_where_a_live_version_was_judged_on_fewer() -> None:
    line = stage_of(Evaluated).summary
    assert line(evaluated(own=4, bare=4)) == "held-out top-1 on 4 rows: own 0.750, bare 0.750"
    assert line(evaluated(own=4, live=1)) == "held-out top-1 on 4 rows: own 0.750, live 0.750 of 1"
