"""Standard output that cannot take what is printed: it lacks characters, is full or is closed."""

import codecs
import errno
import io
import json
import os
import sys
from pathlib import Path

from adapterdistill.errors import FileError

NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""What a full disk answers."""


def prepare_output() -> None:
    """Show characters that a stream lacks as JSON escapes; refuse a closed standard output.

    The escapes keep JSON valid, and a person can read them.

    Raises:
        SystemExit: there is no standard output. The next file that is opened would take its place.
    """
    if sys.stderr is None:
        # It stays open as long as the process.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        told = "standard output is closed: redirect it (> /dev/null) if nobody reads it"
        print(f"error [{FileError.reason}]: {told}", file=sys.stderr)
        sys.exit(FileError.exit_code)
    codecs.register_error("json_escape", _as_json_escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json_escape")


def _as_json_escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return json.dumps(lost)[1:-1], error.end


def drop_output() -> None:
    """Send what is still printed nowhere: Python would fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
