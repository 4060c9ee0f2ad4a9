from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from tests.tiny_encoders import save_tiny_encoder

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("tiny-encoder"))


@pytest.fixture(scope="session")
def tiny_encoder(tiny_encoder_folder: Path) -> Encoder:
    return load_encoder(str(tiny_encoder_folder), dtype="float32")


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The embedded encoder, in float32."""
    return load_encoder(dtype="float32")
