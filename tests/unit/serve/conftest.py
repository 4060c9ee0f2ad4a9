from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder


@pytest.fixture(scope="session")
def encoder_folder(tiny_encoder_folder: Path) -> Path:
    return tiny_encoder_folder


@pytest.fixture(scope="session")
def encoder(tiny_encoder: Encoder) -> Encoder:
    return tiny_encoder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder
