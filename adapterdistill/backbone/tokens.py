"""The tokenizer of an encoder's folder, without state that threads would share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapterdistill.backbone.folder import EncoderFolder, file_sha256, whole
from adapterdistill.errors import EncoderError
from adapterdistill.manifest import canonical_json, sha256_hex

_WORDPIECE_TOKENS = ("[CLS]", "[SEP]", "[UNK]")
_NORMALIZATION = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}
"""Settings of tokenizer_config.json, and those of tokenizer.json that they repeat."""


class Tokenizer:
    """Turns texts into rows of token ids with the special tokens of its post-processor."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        mask = tokenizer.encode("a", add_special_tokens=True)
        content = [place for place, special in enumerate(mask.special_tokens_mask) if not special]
        self._head = mask.ids[: content[0]] if content else mask.ids
        self._tail = mask.ids[content[-1] + 1 :] if content else []

    @property
    def num_special(self) -> int:
        """Special tokens that every row has."""
        return len(self._head) + len(self._tail)

    @property
    def unknown_id(self) -> int | None:
        """Id of the token for text that the vocabulary lacks; None: there is none."""
        ids = map(self._tokenizer.token_to_id, ("[UNK]", "<unk>"))
        return next((one for one in ids if one is not None), None)

    @property
    def largest_id(self) -> int:
        added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        return max([int(self._tokenizer.get_vocab_size()) - 1, *added])

    def rows(self, texts: Sequence[str], max_tokens: Sequence[int]) -> list[list[int]]:
        """Token ids of each text, cut at its own length."""
        return [
            [*self._head, *ids[: most - self.num_special], *self._tail]
            for ids, most in zip(self._content(texts), max_tokens, strict=True)
        ]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text if none is cut."""
        return [self.num_special + len(ids) for ids in self._content(texts)]

    def start_of(self, prompt: str) -> tuple[tuple[int, ...], int]:
        """Token ids that every text with this prompt begins with, and the prompt's own length.

        The last token of a prompt may join the text's first, so the length may be more than the
        ids. sentence-transformers leaves out this many tokens.
        """
        several = [
            [*self._head, *ids] for ids in self._content([prompt, f"{prompt}a", f"{prompt}1"])
        ]
        same = 0
        while all(len(ids) > same and ids[same] == several[0][same] for ids in several):
            same += 1
        return tuple(several[0][:same]), len(several[0])

    def _content(self, texts: Sequence[str]) -> list[list[int]]:
        # Not cut by the tokenizer: its truncation is state that threads would share.
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


TextKind = Literal["query", "passage", "probe"]
"""What a text is: a user's query, a text of an FAQ, or a public probe, which has no prompt."""


@dataclass(frozen=True)
class TextReader:
    """Reads texts as one encoder does: after its prompts, cut at its length."""

    tokenizer: Tokenizer
    max_tokens: int
    query_prompt: str = ""
    passage_prompt: str = ""

    def rows(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        """Token ids of each text."""
        return self.tokenizer.rows(self._prompted(texts, kind), [self.max_tokens] * len(texts))

    def num_cut(self, texts: Sequence[str], kind: TextKind) -> int:
        """Count the texts that are cut, which have more tokens than `max_tokens`."""
        lengths = self.tokenizer.lengths(self._prompted(texts, kind))
        return sum(length > self.max_tokens for length in lengths)

    def _prompted(self, texts: Sequence[str], kind: TextKind) -> list[str]:
        prompts = {"query": self.query_prompt, "passage": self.passage_prompt}
        prompt = prompts.get(kind, "")
        return [prompt + text for text in texts] if prompt else list(texts)


def read_tokenizer(folder: EncoderFolder) -> tuple[Tokenizer, str]:
    """Read `tokenizer.json`, or else BERT's `vocab.txt`, and the digest of what decides tokens.

    Raises:
        EncoderError: there is none, it is damaged, or it needs what is not supported.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    file, vocabulary = folder.path / "tokenizer.json", folder.path / "vocab.txt"
    if folder.tokenizer_config.get("truncation_side", "right") != "right":
        raise EncoderError(
            f"encoder {folder.name!r}: tokenizer_config.json sets truncation_side to left, which "
            "is not supported: texts are cut at their end"
        )
    if file.is_file():
        whole(file, folder.name)
        try:
            tokenizer = HuggingFaceTokenizer.from_file(str(file))
        except Exception as error:  # it raises plain `Exception`
            raise EncoderError(
                f"encoder {folder.name!r} cannot be loaded: tokenizer.json is damaged or of "
                "another kind"
            ) from error
        _check_normalization(file, folder)
        digest = file_sha256(file)
    elif vocabulary.is_file():
        whole(vocabulary, folder.name)
        tokenizer, settings = _wordpiece(vocabulary, folder)
        digest = sha256_hex(canonical_json({"vocab.txt": file_sha256(vocabulary), **settings}))
    else:
        raise EncoderError(f"encoder {folder.name!r}: no tokenizer.json in its folder")
    if folder.lower_case:
        steps = tokenizer.normalizer
        tokenizer.normalizer = Steps([Lowercase(), *([steps] if steps is not None else [])])
        digest = sha256_hex(canonical_json({"tokenizer": digest, "do_lower_case": True}))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = Tokenizer(tokenizer)
    if not found.num_special:
        raise EncoderError(
            f"encoder {folder.name!r}: its tokenizer adds no special token, so a text without "
            "words would have no token: expected a post_processor in tokenizer.json"
        )
    return found, digest


def _wordpiece(vocabulary: Path, folder: EncoderFolder) -> tuple[Any, dict[str, Any]]:
    """BERT's tokenizer as transformers makes it of a `vocab.txt`, and its settings."""
    from tokenizers import BertWordPieceTokenizer

    given = folder.tokenizer_config
    settings = {
        "lowercase": given.get("do_lower_case", True),
        "strip_accents": given.get("strip_accents"),
        "handle_chinese_chars": given.get("tokenize_chinese_chars", True),
    }
    try:
        words = vocabulary.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        words = []
    missing = [word for word in _WORDPIECE_TOKENS if word not in words]
    if missing:
        raise EncoderError(
            f"encoder {folder.name!r}: no tokenizer.json in its folder, and vocab.txt is not of "
            f"BERT's WordPiece: it lacks {missing[0]}. Save the tokenizer as tokenizer.json"
        )
    made = BertWordPieceTokenizer(str(vocabulary), **settings)
    return made._tokenizer, settings


def _check_normalization(file: Path, folder: EncoderFolder) -> None:
    """Refuse a tokenizer_config.json that contradicts BERT's normalizer in tokenizer.json."""
    normalizer = json.loads(file.read_bytes()).get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return
    for setting, name in _NORMALIZATION.items():
        said = folder.tokenizer_config.get(setting)
        if said is not None and said != normalizer.get(name):
            raise EncoderError(
                f"encoder {folder.name!r}: tokenizer_config.json sets {setting} to "
                f"{str(said).lower()}, tokenizer.json to {str(normalizer.get(name)).lower()}: make "
                "them agree"
            )
