"""The commands of a story: what they print, and with which error they end."""

from pathlib import Path

import pytest

from adapterdistill.demo.parties import command, registry_process
from adapterdistill.errors import DataError, RegistryUnavailableError, TrainingError


def test_a_command_gives_what_it_prints_and_raises_the_error_that_it_ends_with(
    tmp_path: Path,
) -> None:
    assert "larkhill-vets" in command("data", "samples", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"faqs\.parquet"):
        command("data", "describe", str(tmp_path))
    with pytest.raises(TrainingError, match="nonsense"):  # wrong usage has no reason to tell
        command("registry", "nonsense")


def test_a_registry_that_does_not_start_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    log = tmp_path / "log"
    opened = registry_process(
        tmp_path / "root", address_file=tmp_path / "address", log_file=log, record=None
    )
    with pytest.raises(RegistryUnavailableError, match="log"), opened:
        pass
    assert "REGISTRY_ERROR" in log.read_text()


def test_a_registry_process_ends_with_its_context(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with registry_process(
        tmp_path / "root", address_file=tmp_path / "address", log_file=log, record=None
    ) as address:
        assert address == (tmp_path / "address").read_text().strip()
    assert log.read_text().rstrip().endswith("stopped")
