"""The cost of selection, measured on a registry process of its own."""

from adapterdistill.backbone import Encoder
from adapterdistill.bench.selection.cost import measure_cost


def test_the_cost_is_measured_on_a_real_registry_at_every_size(tiny_encoder: Encoder) -> None:
    rows = tiny_encoder.tokenize(["where is my parcel", "the lamp is broken"])
    found = measure_cost(tiny_encoder, rows, counts=(3, 40), max_teachers=5, rounds=1)
    few, many = found["sizes"]
    assert (few["listed"], few["fetched"]) == (3, 3)
    assert (many["listed"], many["fetched"]) == (40, 5)
    for size in found["sizes"]:
        assert size["fetched_bytes"] == size["fetched"] * found["payload_bytes"]
        assert size["all_bytes"] == size["listed"] * found["payload_bytes"]
        assert 256 < size["list_bytes"] / size["listed"] < 512
        assert size["list_manifests_bytes"] > 4 * size["list_bytes"]
        assert size["whole_s"]["min"] > size["list_s"]["min"] > 0
