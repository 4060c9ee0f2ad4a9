import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.errors import ServingError
from adapterdistill.serve.engine.adapter_bank import MAX_BOTTLENECK_SIZE, AdapterBank
from tests.serving_store import random_adapter

TEXTS = ["where is my parcel", "hi", "opening hours on sunday"]


def bank_for(encoder: Encoder, capacity: int = 2) -> AdapterBank:
    return AdapterBank(encoder, capacity=capacity)


def assert_slot_holds(
    bank: AdapterBank, encoder: Encoder, number: int, adapter: BottleneckAdapter
) -> None:
    tokens = pack(encoder.tokenize(TEXTS))
    found = encoder.embed(tokens, bank.stack.mixed(torch.tensor([number] * 3), tokens))
    torch.testing.assert_close(found, encoder.embed(tokens, adapter), atol=2e-6, rtol=0)


def test_growth_in_slots_and_in_width_changes_no_adapter(encoder: Encoder) -> None:
    bank = bank_for(encoder)
    adapters = [
        random_adapter(encoder, seed=n, bottleneck_size=size)
        for n, size in enumerate((4, 9, 2, 6, 12))
    ]
    slots = [bank.place(adapter) for adapter in adapters]
    for slot, adapter in zip(slots, adapters, strict=True):
        assert_slot_holds(bank, encoder, slot.number, adapter)


def test_a_slot_comes_free_with_its_last_holder_and_keeps_nothing_of_a_wider_adapter(
    encoder: Encoder,
) -> None:
    bank = bank_for(encoder, capacity=1)
    slot = bank.place(random_adapter(encoder, seed=1, bottleneck_size=9))
    number, second_holder = slot.number, slot
    del slot
    assert bank.num_free == 0
    del second_holder
    assert bank.num_free == 1
    narrow = random_adapter(encoder, seed=2, bottleneck_size=3)
    held = bank.place(narrow)
    assert (held.number, bank.num_slots) == (number, 1)
    assert_slot_holds(bank, encoder, held.number, narrow)


def test_adapters_of_another_shape_are_refused(encoder: Encoder) -> None:
    bank = bank_for(encoder)
    d, layers = encoder.hidden_size, encoder.num_layers
    for shape in ((layers + 1, d, 4), (layers, d * 2, 4), (layers, d, MAX_BOTTLENECK_SIZE + 1)):
        with pytest.raises(ServingError):
            bank.place(BottleneckAdapter.new(*shape, seed=0))
    assert bank.num_slots == 0
