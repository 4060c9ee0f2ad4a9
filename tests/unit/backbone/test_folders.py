"""Encoders' folders against the vectors that sentence-transformers makes of them."""

import json
from pathlib import Path

import pytest
import torch

from tests.sentence_folders import CASES, save_case
from tests.unit.backbone.record_sentence_transformers import (
    RECORDED,
    largest_difference,
    our_vectors,
)

VECTORS = json.loads(RECORDED.read_text())


def test_every_case_is_recorded() -> None:
    assert set(VECTORS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    ours = our_vectors(save_case(tmp_path, CASES[name]))
    theirs = {kind: torch.tensor(vectors) for kind, vectors in VECTORS[name].items()}
    assert largest_difference(ours, theirs) < 1e-4
