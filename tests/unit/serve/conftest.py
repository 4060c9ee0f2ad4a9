import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder, load_encoder
from tests.tiny_encoders import save_tiny_encoder

LOGGERS = ("adapterdistill.requests", "ray.serve")


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Take back what a replica sets of the process's loggers, which later tests would inherit."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(log.propagate, log.level, list(log.handlers)) for log in loggers]
    yield
    for log, (propagate, level, handlers) in zip(loggers, before, strict=True):
        log.propagate, log.handlers = propagate, handlers
        log.setLevel(level)


@pytest.fixture(scope="session")
def encoder_folder(tiny_encoder_folder: Path) -> Path:
    return tiny_encoder_folder


@pytest.fixture(scope="session")
def encoder(tiny_encoder: Encoder) -> Encoder:
    return tiny_encoder


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder of the same shape as `encoder`: a wrong one would answer all the same."""
    folder = save_tiny_encoder(tmp_path_factory.mktemp("others") / "other-encoder", seed=1)
    return load_encoder(str(folder), dtype="float32")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder
