from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from tests.serving_store import save_tiny_encoder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Encoder:
    return load_encoder(str(encoder_folder), dtype="float32")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder
