"""Libraries of the extras: imported where they are needed, or named with the remedy."""

import json

import pytest

from adapterdistill.errors import MissingExtraError
from adapterdistill.extras import require


def test_a_module_that_is_installed_is_imported() -> None:
    assert require("bench", "json") is json


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_a_missing_module_is_named_with_its_extra_and_the_command(module: str) -> None:
    with pytest.raises(MissingExtraError) as missing:
        require("bench", module)
    assert str(missing.value) == (
        "module no_such_library is not installed; it comes with the extra `bench`: "
        "pip install 'adapterdistill[bench]'"
    )
