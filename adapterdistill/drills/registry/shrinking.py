"""The smallest case that fails as another does, drawn and shrunk by hypothesis.

The many cases of a run are drawn from seeds, sixteen at a time. Hypothesis draws one at a time and
remembers each, which is too slow for a hundred thousand calls. So it comes in where a case fails:
it drives the same functions in place of a seed, and shrinks a case that fails alike.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from adapterdistill.drills.registry.fuzz_cases import Case, draw_case
from adapterdistill.extras import require

_MOST_EXAMPLES = 200


def smallest(numbers: Iterator[int], fails: Callable[[Case], bool], folder: Path) -> Case | None:
    """The smallest case that `fails`; None where none is found.

    Args:
        numbers: gives each attempt its own, so that it publishes under a new name.
        folder: takes the files that hypothesis keeps.

    Raises:
        MissingExtraError: hypothesis is not installed.
    """
    hypothesis = require("bench", "hypothesis")
    strategies = require("bench", "hypothesis.strategies")
    require("bench", "hypothesis.configuration").set_hypothesis_home_dir(folder)
    randoms = strategies.randoms(use_true_random=False)
    settings = hypothesis.settings(
        max_examples=_MOST_EXAMPLES,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        found: Case = hypothesis.find(
            randoms.map(lambda draw: draw_case(draw, next(numbers))), fails, settings=settings
        )
    except hypothesis.errors.NoSuchExample:
        return None
    return found
