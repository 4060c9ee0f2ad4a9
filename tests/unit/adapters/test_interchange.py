import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.adapters.interchange import from_library, to_library
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.errors import InvalidPayloadError


def _adapter() -> BottleneckAdapter:
    adapter = BottleneckAdapter.new(3, 8, 2, seed=0)
    for p in adapter.parameters():
        torch.nn.init.normal_(p)
    return adapter


def test_a_round_trip_through_the_other_library_gives_the_same_bytes() -> None:
    adapter = _adapter()
    theirs = to_library(adapter, name="acme", prefix="bert.")
    theirs["bert.encoder.layer.0.output.adapters.other.adapter_up.bias"] = torch.zeros(8)
    theirs["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(8)
    back = from_library(theirs, name="acme")
    assert pack_adapter(back, model_name="m") == pack_adapter(adapter, model_name="m")


def test_names_are_those_of_the_other_library() -> None:
    theirs = to_library(_adapter(), name="acme", prefix="bert.")
    layer = "bert.encoder.layer.2.output.adapters.acme."
    assert theirs[layer + "adapter_down.0.weight"].shape == (2, 8)
    assert theirs[layer + "adapter_up.weight"].shape == (8, 2)
    assert len(theirs) == 3 * 4


def test_an_adapter_that_is_not_whole_is_refused() -> None:
    theirs = to_library(_adapter(), name="acme")
    with pytest.raises(InvalidPayloadError, match="every layer"):
        from_library(theirs, name="absent")
    del theirs["encoder.layer.1.output.adapters.acme.adapter_up.bias"]
    with pytest.raises(InvalidPayloadError, match="every layer"):
        from_library(theirs, name="acme")


def test_an_adapter_of_another_architecture_is_refused() -> None:
    theirs = to_library(_adapter(), name="acme")
    theirs["encoder.layer.0.output.adapters.acme.gate.weight"] = torch.zeros(1)
    with pytest.raises(InvalidPayloadError, match="seq_bn"):
        from_library(theirs, name="acme")
