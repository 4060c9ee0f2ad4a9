"""A drill on a real Ray cluster, as a person would run it."""

import json
import random
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from adapterdistill.drills.onboarding.on_ray import _VICTIMS, draw_moment

ROOT = Path(__file__).resolve().parents[2]


def seed_of(moment: str, victim: str) -> int:
    """The first seed that draws these."""
    for seed in count():
        draw = random.Random(seed)
        if (draw_moment(draw), draw.choice(_VICTIMS)) == (moment, victim):
            return seed
    raise AssertionError


@pytest.mark.e2e
def test_an_owner_that_is_killed_ends_with_the_same_adapter() -> None:
    seed = seed_of("started", "DataOwner")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "adapterdistill", "drill", "kill-owner"),
            *("--seed", str(seed), "--format", "json"),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)
    assert row["passed"] and row["runs"][0]["findings"] == []
