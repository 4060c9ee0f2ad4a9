"""Salted commitments to the names of teachers.

A manifest goes to everyone who may see its version, and not all of them may see its teachers. So an
owner signs commitments, and the registry opens each to those who may see that teacher.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from adapterdistill.errors import InvalidManifestError
from adapterdistill.manifest import HIDDEN, Manifest, sha256_hex

SALT_BYTES = 32


@dataclass(frozen=True)
class Opening:
    """The name of a teacher and the salt of its commitment."""

    name: str
    salt: bytes

    @property
    def commitment(self) -> str:
        """What the manifest says; the name itself if there is no salt."""
        return f"hidden/{sha256_hex(self.salt + self.name.encode())}" if self.salt else self.name


def committed(manifest: Manifest) -> tuple[Manifest, tuple[Opening, ...]]:
    """Replace the names of the manifest's teachers by new commitments."""
    openings = tuple(Opening(name, secrets.token_bytes(SALT_BYTES)) for name in manifest.teachers)
    teachers = tuple(opening.commitment for opening in openings)
    return manifest.model_copy(update={"teachers": teachers}), openings


def opened(manifest: Manifest, openings: Collection[Opening]) -> Manifest:
    """Replace commitments by the names that open them; those without an opening stay.

    Raises:
        InvalidManifestError: an opening has a short salt, or opens no teacher of the manifest.
    """
    names = {opening.commitment: opening.name for opening in openings}
    if any(len(opening.salt) != SALT_BYTES for opening in openings):
        raise InvalidManifestError(f"the salt of a teacher must have {SALT_BYTES} bytes")
    if not names.keys() <= set(manifest.teachers):
        raise InvalidManifestError("a teacher is opened that the manifest does not have")
    teachers = tuple(names.get(teacher, teacher) for teacher in manifest.teachers)
    return manifest.model_copy(update={"teachers": teachers})


def check_committed(manifest: Manifest) -> None:
    """Raise InvalidManifestError if the manifest names a teacher."""
    if not all(map(HIDDEN.fullmatch, manifest.teachers)):
        raise InvalidManifestError(
            "the manifest names its teachers, which not everyone may see who may see it: publish"
            " with this release's client, which commits to them"
        )
