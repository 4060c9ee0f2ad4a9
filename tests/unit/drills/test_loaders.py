"""No payload, however it is spoilt, ends in an error that the callers of a loader do not expect."""

import json
from random import Random

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.distill.variants import pack_variant, unpack_variant
from adapterdistill.drills.onboarding.poisoned_teacher import Loaders, loaders, uncaught
from adapterdistill.errors import AdapterDistillError
from adapterdistill.evaluation.scorer import pack_scorer, unpack_scorer
from tests.random_variants import VARIANTS, random_variant
from tests.unit.evaluation.test_scorer import fitted


def every_loader(encoder: Encoder, draw: Random) -> Loaders:
    more: Loaders = {
        name: (
            pack_variant(random_variant(encoder, settings, seed=5)),
            lambda payload: unpack_variant(payload, encoder),
        )
        for name, settings in VARIANTS.items()
    }
    return {
        **loaders(encoder, draw), **more, "scorer": (pack_scorer(fitted(3)), unpack_scorer)
    }  # fmt: skip


def test_every_loader_refuses_mutated_payloads_with_an_error_that_is_expected(
    tiny_encoder: Encoder,
) -> None:
    draw = Random(18)
    assert uncaught(loaders(tiny_encoder, draw), draw, 500) == {}
    assert uncaught(every_loader(tiny_encoder, draw), draw, 60) == {}


def test_every_loader_reads_what_is_not_mutated(tiny_encoder: Encoder) -> None:
    for name, (sound, load) in every_loader(tiny_encoder, Random(0)).items():
        if name != "load_proven":  # it mutates manifests
            load(sound)


def test_an_error_that_no_caller_expects_is_counted(tiny_encoder: Encoder) -> None:
    def load(payload: bytes) -> None:
        raise RecursionError

    sound, _ = loaders(tiny_encoder, Random(0))["unpack_adapter"]
    assert uncaught({"one": (sound, load)}, Random(0), 5) == {("one", "RecursionError"): 5}


@pytest.mark.parametrize("name", ["unpack_variant", "scorer"])
def test_metadata_that_are_null_are_refused(tiny_encoder: Encoder, name: str) -> None:
    sound, load = every_loader(tiny_encoder, Random(0))[name]
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length]) | {"__metadata__": None}
    written = json.dumps(header).encode()
    with pytest.raises(AdapterDistillError):
        load(len(written).to_bytes(8, "little") + written + sound[8 + length :])
