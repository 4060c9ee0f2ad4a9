import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.serve.engine.proofs import Proofs
from tests.tiny_encoders import random_adapter


def test_a_bundle_that_failed_on_all_sentences_stays_refused(encoder: Encoder) -> None:
    adapter = random_adapter(encoder, seed=1)
    golden = golden_vectors(encoder, adapter)
    wrong = golden.model_copy(update={"distances": tuple(d + 0.05 for d in golden.distances)})
    proven = Proofs()
    proven.check("one")
    with pytest.raises(EncoderMismatchError, match="tolerance"):
        proven.prove("one", encoder, adapter, wrong)
    for again in (proven.check, lambda of: proven.prove(of, encoder, adapter, golden)):
        with pytest.raises(EncoderMismatchError, match="tolerance"):
            again("one")
