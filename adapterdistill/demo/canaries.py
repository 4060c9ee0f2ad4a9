"""Canaries: words planted in private texts, and the search for them where they must not be."""

import base64
import random
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapterdistill.backbone import Encoder
from adapterdistill.data import TenantDataset
from adapterdistill.data.dataset import write_tenant
from adapterdistill.demo.parties import Owner

KINDS = ("answer", "query", "question")
"""Kinds of private text, each with a canary of its own."""
Label = tuple[str, str]
"""A canary's tenant and kind."""
PUBLIC: Label = ("", "")
_LETTERS = 24
_MIN_TOKENS = 8  # fewer might be found somewhere by chance


@dataclass(frozen=True)
class Needles:
    """The forms of one word: its text in several encodings, and its token ids."""

    by_form: Mapping[str, bytes]

    @classmethod
    def of(cls, word: str, encoder: Encoder) -> "Needles":
        ids = encoder.tokenize([word])[0][1:-1]
        assert len(ids) >= _MIN_TOKENS, "the word is no canary: it has too few tokens"
        return cls(
            {
                "utf-8": word.encode(),
                "upper case": word.upper().encode(),
                "utf-16": word.encode("utf-16-le"),
                "reversed": word[::-1].encode(),
                **{f"base64, from byte {shift}": _base64(word, shift) for shift in range(3)},
                "hexadecimal": word.encode().hex().encode(),
                "int32 ids": np.array(ids, "<i4").tobytes(),
                "int64 ids": np.array(ids, "<i8").tobytes(),
                "float32 ids": np.array(ids, "<f4").tobytes(),
                "ids in JSON": ",".join(map(str, ids)).encode(),
                "spaced ids in JSON": ", ".join(map(str, ids)).encode(),
            }
        )

    def found_in(self, places: Mapping[str, bytes]) -> set[tuple[str, str]]:
        """Each place with each form in which the word is in it."""
        return {
            (place, form)
            for place, content in places.items()
            for form, needle in self.by_form.items()
            if needle in content
        }


def _base64(word: str, shift: int) -> bytes:
    """The base64 of the word's whole triples if its first `shift` bytes belong to an earlier one.

    Four digits stand for three bytes, so a word is written in one of three ways.
    """
    whole = word.encode()[shift:]
    return base64.b64encode(whole[: len(whole) // 3 * 3])


def new_canary() -> str:
    """Random letters: a word of no text, and found in no copy of the program."""
    return "".join(random.SystemRandom().choices(string.ascii_lowercase, k=_LETTERS))


def plant(folder: Path, canaries: Mapping[str, str]) -> None:
    """Put into each private text of the tenant in `folder` the canary of its kind."""
    dataset = TenantDataset.open(folder)
    faqs = [
        replace(
            faq,
            question=f"{faq.question} {canaries['question']}",
            answer=f"{faq.answer or ''} {canaries['answer']}",
        )
        for faq in dataset.faqs()
    ]
    queries = [replace(q, text=f"{q.text} {canaries['query']}") for q in dataset.queries()]
    write_tenant(folder, faqs, queries, overwrite=True)


def files_under(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in the folder, or of the one file itself; no links."""
    for path in sorted([folder] if folder.is_file() else folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


class Canaries:
    """One for each kind of private text of each owner, and one that is public.

    The public one is in every adapter's name. It is the positive control: it must be found.
    """

    def __init__(self, owners: Iterable[Owner], encoder: Encoder) -> None:
        """`encoder` says which token ids stand for a word."""
        self._words = {owner: {kind: new_canary() for kind in KINDS} for owner in owners}
        self.control = new_canary()
        self._needles = {
            (owner.tenant, kind): Needles.of(word, encoder)
            for owner, words in self._words.items()
            for kind, word in words.items()
        }
        self._needles[PUBLIC] = Needles.of(self.control, encoder)

    def plant(self, owner: Owner) -> None:
        """Put into each private text of the owner the canary of its kind."""
        plant(owner.data, self._words[owner])

    def found_in(self, folder: Path) -> "Found":
        """Search the files of this folder for everybody's texts, in any form."""
        found: set[Label] = set()
        files = content_bytes = 0
        for path, content in files_under(folder):
            files, content_bytes = files + 1, content_bytes + len(content)
            for label, needles in self._needles.items():
                if label not in found and needles.found_in({path: content}):
                    found.add(label)
        return Found(_told(found), files, content_bytes)

    def expected_in(self, owner: Owner | None = None) -> str:
        """The expected answer of `found_in` for the owner's folder, or for one of nobody."""
        own = set() if owner is None else {(owner.tenant, kind) for kind in KINDS}
        return _told({*own, PUBLIC})


@dataclass(frozen=True)
class Found:
    """`told` names the canaries that are there."""

    told: str
    files: int
    content_bytes: int


def _told(labels: set[Label]) -> str:
    """`acme's answer, query and question; the public one`, as far as they were found."""
    kinds: dict[str, list[str]] = {}
    for tenant, kind in sorted(labels - {PUBLIC}):
        kinds.setdefault(tenant, []).append(kind)
    told = [f"{tenant}'s {', '.join(its)}" for tenant, its in kinds.items()]
    return "; ".join([*told, *(["the public one"] if PUBLIC in labels else [])]) or "none"
