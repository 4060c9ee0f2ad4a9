"""The commands of a story: what they print, and with which error they end."""

from pathlib import Path

import pytest

from adapterdistill.demo.parties import command
from adapterdistill.errors import DataError, TrainingError


def test_a_command_gives_what_it_prints_and_raises_the_error_that_it_ends_with(
    tmp_path: Path,
) -> None:
    assert "larkhill-vets" in command("data", "samples", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"faqs\.parquet"):
        command("data", "describe", str(tmp_path))
    with pytest.raises(TrainingError, match="nonsense"):  # wrong usage has no reason to tell
        command("registry", "nonsense")
