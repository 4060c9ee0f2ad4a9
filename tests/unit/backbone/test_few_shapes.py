"""Products run on few shapes, and rows do not notice what they are filled up with."""

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder, one_of_few, pack
from adapterdistill.backbone.packed import filled_up
from tests.tiny_encoders import random_rows, save_tiny_encoder


def test_sizes_are_at_most_16_in_an_octave_and_little_above_the_count() -> None:
    sizes = [one_of_few(count) for count in range(1, 4097)]
    assert sizes[:32] == list(range(1, 33))
    assert all(count <= size < 1.0625 * count + 1 for count, size in enumerate(sizes, 1))
    assert len({size for size in sizes if 1024 < size <= 2048}) == 16
    assert all(one_of_few(size) == size for size in sizes)


def test_only_the_cpu_s_bfloat16_is_filled_up_and_with_zeros() -> None:
    x = torch.arange(1.0, 197.0).view(49, 4)
    assert filled_up(x) is x
    trained = x.bfloat16().requires_grad_()
    assert filled_up(trained) is trained
    found = filled_up(x.bfloat16())
    assert found.shape == (50, 4) and not found[49:].any()
    assert torch.equal(found[:49], x.bfloat16())


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return load_encoder(str(folder), dtype="bfloat16")


def test_a_batch_that_is_filled_up_gives_each_row_what_it_has_alone(in_bfloat16: Encoder) -> None:
    lengths = [5, 2, 9, 5, 1, 9, 2, 5, 5, 17, 23]
    assert one_of_few(sum(lengths)) > sum(lengths)
    rows = random_rows(lengths)
    together = in_bfloat16.embed(pack(rows))
    alone = torch.cat([in_bfloat16.embed(pack([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=0.01)
