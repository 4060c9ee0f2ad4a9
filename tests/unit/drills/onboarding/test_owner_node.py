"""What a driver may say while its owner's node is away."""

import pytest

from adapterdistill.drills.onboarding.on_ray import _wrongly_said

_AWAY = "error [NO_OWNER_NODE]: no node of the cluster offers the resource 'owner:acme'"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (_AWAY, False),
        ("[1/9] acme validate: 5 FAQs", False),
        ("error [TRAINING_FAILED]: Ray Train failed", True),
        ("Traceback (most recent call last):", True),
    ],
)
def test_only_that_the_node_is_away(line: str, wrong: bool) -> None:
    assert len(list(_wrongly_said(["a line", line]))) == wrong
