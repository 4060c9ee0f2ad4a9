"""A registry in a process of its own starts, ends, and says why it does not start."""

from pathlib import Path

import pytest

from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.testbed.registry import registry_process


def test_a_registry_that_does_not_start_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    log = tmp_path / "log"
    with (
        pytest.raises(RegistryUnavailableError, match="log"),
        registry_process(tmp_path / "root", log=log),
    ):
        pass
    assert "REGISTRY_ERROR" in log.read_text()


def test_a_registry_process_ends_with_its_context(tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "named"
    with registry_process(tmp_path / "root", address_file=file, log=log) as registry:
        assert registry.address == file.read_text().strip()
        assert registry.is_running()
    assert log.read_text().rstrip().endswith("stopped")
