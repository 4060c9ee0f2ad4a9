"""Results by content: one JSON a cell, adapters as payload files, both written whole or not at all.

The cache is where worker processes meet and what makes a run resumable. A key names everything
that a result depends on, so a changed method, tenant or setting is another key.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from adapterdistill.files import replace_file
from adapterdistill.manifest import canonical_json


def content_key(inputs: object) -> str:
    """sha256 over the canonical JSON of what a result depends on."""
    return hashlib.sha256(canonical_json(inputs)).hexdigest()


class ResultCache:
    """A folder of results by key. Safe for several processes: the last whole write wins."""

    def __init__(self, folder: Path) -> None:
        self._cells = folder / "cells"
        self._payloads = folder / "payloads"
        for part in (self._cells, self._payloads):
            part.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return self._cell(key).exists()

    def read(self, key: str) -> dict[str, Any] | None:
        """The result, or None where there is none or it is broken (and is then made anew)."""
        try:
            found = json.loads(self._cell(key).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, key: str, result: dict[str, Any]) -> None:
        replace_file(self._cell(key), json.dumps(result, sort_keys=True).encode())

    def read_payload(self, key: str) -> bytes:
        return self._payload(key).read_bytes()

    def write_payload(self, key: str, payload: bytes) -> None:
        replace_file(self._payload(key), payload)

    def _cell(self, key: str) -> Path:
        return self._cells / f"{key}.json"

    def _payload(self, key: str) -> Path:
        return self._payloads / f"{key}.safetensors"
