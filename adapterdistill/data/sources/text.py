"""Open a text file in its encoding: UTF-8, by its byte order mark, or as the user says."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa

from adapterdistill.data.sources.raw import MAX_WHOLE_BYTES, UnreadableSourceError

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = {
    b"PK\x03\x04": "an Excel file or a zip archive; an Excel file must be named .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as .xlsx",
    b"PAR1": "Parquet; name it .parquet",
    b"\x1f\x8b": "compressed by gzip; let its name end with .gz",
}
_SAMPLE_BYTES = 4096


def _zstandard(path: Path) -> BinaryIO:
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: io.BufferedReader(gzip.GzipFile(path)),
    ".bz2": lambda path: io.BufferedReader(bz2.BZ2File(path)),
    ".xz": lambda path: io.BufferedReader(lzma.LZMAFile(path)),  # noqa: SIM115
    ".zst": _zstandard,
}
COMPRESSIONS = tuple(_OPENERS)


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, decompressed where its suffix says that they are compressed."""
    opener = _OPENERS.get(path.suffix.casefold())
    return path.open("rb") if opener is None else opener(path)


def check_encoding(name: str) -> str:
    """The codec's own name. Raises ValueError if it is not an encoding of text."""
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):
        raise ValueError(
            "--encoding must name an encoding of text, such as utf-8, utf-16 or cp1252"
        ) from None


def encoding_of(path: Path, told: str | None) -> str:
    """The encoding to read with: by the byte order mark, else as `told`, else UTF-8.

    Raises:
        UnreadableSourceError: the bytes are of another format, or of UTF-16 without a mark while
            nothing was told.
    """
    with open_bytes(path) as stream:
        start = stream.read(_SAMPLE_BYTES)
    for beginning, what in _OTHER_FORMATS.items():
        if start.startswith(beginning):
            raise UnreadableSourceError(f"is not text but {what}")
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if told is not None:
        return told
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if len(start) >= 4 and max(even, odd) > len(start) // 4:
        guess = "utf-16-le" if odd > even else "utf-16-be"
        raise UnreadableSourceError(
            f"looks like UTF-16 without a byte order mark; import it with --encoding {guess}"
        )
    return "utf-8"


def shown_encoding(encoding: str) -> str:
    names = {"utf-8-sig": "UTF-8 with a byte order mark", "utf-8": "UTF-8"}
    return names.get(encoding, encoding.upper() if encoding.startswith("utf") else encoding)


def open_text(path: Path, encoding: str) -> TextIO:
    """The file's text. Bytes that are not of `encoding` come as lone surrogates where that can be.

    UTF-16 and UTF-32 raise UnicodeDecodeError in mid-stream instead.
    """
    errors = "strict" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return io.TextIOWrapper(open_bytes(path), encoding, errors, newline="")


def read_whole(path: Path, encoding: str) -> str:
    """The whole text, of at most `MAX_WHOLE_BYTES` characters."""
    with open_text(path, encoding) as stream:
        text = stream.read(MAX_WHOLE_BYTES + 1)
    if len(text) > MAX_WHOLE_BYTES:
        raise UnreadableSourceError("is too large to be read whole; save it as CSV or JSON Lines")
    return text


def is_also_utf8(path: Path) -> bool:
    """Whether the file is UTF-8 with at least one character beyond ASCII."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    beyond = False
    with open_bytes(path) as stream:
        try:
            while block := stream.read(1 << 20):
                beyond = beyond or not block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return beyond
