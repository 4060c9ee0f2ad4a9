import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.serve.engine import proofs
from adapterdistill.serve.engine.proofs import Proofs
from tests.tiny_encoders import random_adapter


def test_bundles_that_wait_are_proven_together_and_each_is_told_its_own(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, other = (random_adapter(encoder, seed=seed) for seed in (1, 2))
    golden = golden_vectors(encoder, adapter)
    wrong = golden.model_copy(update={"distances": tuple(d + 0.05 for d in golden.distances)})
    began, gate, together = threading.Event(), threading.Event(), []
    prove = proofs.prove_briefly

    def slow(of: Encoder, asked: Sequence) -> list:
        together.append(len(asked))
        began.set()
        assert gate.wait(10)
        return prove(of, asked)

    monkeypatch.setattr(proofs, "prove_briefly", slow)
    proven = Proofs()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(proven.prove_briefly, "first", encoder, adapter, golden)
        assert began.wait(10)
        rest = [
            threads.submit(proven.prove_briefly, name, encoder, adapter, of)
            for name, of in (("right", golden), ("wrong", wrong), ("again", golden))
        ]
        while len(proven._pending) < 3:
            pass
        gate.set()
        assert (
            first.result(10) is None and rest[0].result(10) is None and rest[2].result(10) is None
        )
        with pytest.raises(EncoderMismatchError, match="tolerance"):
            rest[1].result(10)
    assert together == [1, 3]
    proven.prove_briefly("right", encoder, other, golden)  # known: what an id names does not change
    assert together == [1, 3]


def test_a_proof_that_breaks_is_told_to_all_who_wait(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(of: Encoder, asked: Sequence) -> list:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(proofs, "prove_briefly", broken)
    adapter = random_adapter(encoder, seed=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        Proofs().prove_briefly("one", encoder, adapter, golden_vectors(encoder, adapter))


def test_a_bundle_that_failed_on_all_sentences_is_not_let_in_by_one(encoder: Encoder) -> None:
    adapter = random_adapter(encoder, seed=1)
    golden = golden_vectors(encoder, adapter)
    wrong = golden.model_copy(update={"distances": tuple(d + 0.05 for d in golden.distances)})
    proven = Proofs()
    proven.prove_briefly("one", encoder, adapter, golden)
    with pytest.raises(EncoderMismatchError, match="tolerance"):
        proven.prove("one", encoder, adapter, wrong)
    with pytest.raises(EncoderMismatchError, match="tolerance"):
        proven.prove_briefly("one", encoder, adapter, golden)
