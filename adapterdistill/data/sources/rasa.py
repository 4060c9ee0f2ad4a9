"""Rasa's training data in YAML: intents with their examples, and the responses that answer them.

Format: rasa.com/docs/rasa/training-data-format, nlu-training-data, responses. An intent is a FAQ:
its first example is the question, the others are training queries. The response `utter_` with the
intent's name is the answer (`utter_faq/ask_price`, for the intent `faq/ask_price` too).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapterdistill.data.sources.columns import shown_name
from adapterdistill.data.sources.raw import RawTable, Record, UnreadableSourceError
from adapterdistill.data.sources.text import encoding_of, read_whole

_ENTITY = re.compile(r"\[([^\[\]]+)\](?:\([^()]*\)|\{[^{}]*\}|\[\s*\{.*?\}\s*\])")


class _Loader(yaml.BaseLoader):  # type: ignore[misc]  # yaml has no types
    """Every scalar is text, so that the intents `no` and `1.0` keep their names."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UnreadableSourceError("uses YAML aliases, which are not read")
        return super().compose_node(parent, index)

    def mapping(self, node: yaml.MappingNode) -> dict[str, object]:
        keys = [self.construct_scalar(key) for key, _ in node.value]
        if len(set(keys)) != len(keys):
            line = node.start_mark.line + 1
            raise UnreadableSourceError(f"has one key more than once in the mapping at line {line}")
        values = [self.construct_object(value, deep=True) for _, value in node.value]
        return dict(zip(keys, values, strict=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)


@dataclass
class RasaProject:
    """The content of all YAML files of a source."""

    files: list[str] = field(default_factory=list)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Each example and its split, by intent."""
    answers: dict[str, str] = field(default_factory=dict)
    """The first text of each response, by its name."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(place, why)."""

    def read(self, path: Path, file: str, *, split: str, told: str | None) -> bool:
        """Add a file; False if it is YAML of another kind.

        Raises:
            UnreadableSourceError: the file is not YAML, or not built as Rasa's format wants.
        """
        try:
            content = _Loader(read_whole(path, encoding_of(path, told))).get_single_data()
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" (line {mark.line + 1})"
            raise UnreadableSourceError(f"is not well-formed YAML{line}") from None
        if not isinstance(content, dict) or not ("nlu" in content or "responses" in content):
            return False
        self.files.append(file)
        for entry in _entries(content, "nlu"):
            self._add_examples(entry, file, split)
        responses = content.get("responses") or {}
        if not isinstance(responses, dict):
            raise UnreadableSourceError("holds `responses` that are not a mapping")
        for name, variants in responses.items():
            self._add_response(name, variants, file)
        others = sorted(set(content) - {"nlu", "responses", "version"})
        if others:
            self.ignored.append((file, f"sections {', '.join(others)}"))
        return True

    def _add_examples(self, entry: object, file: str, split: str) -> None:
        if not isinstance(entry, dict):
            raise UnreadableSourceError("holds an entry of `nlu` that is not a mapping")
        name = entry.get("intent")
        if not isinstance(name, str):
            kind = next((k for k in ("synonym", "regex", "lookup") if k in entry), "other")
            self.ignored.append((file, f"an entry of `nlu` of the kind {kind}"))
            return
        examples, left_out = _examples(entry.get("examples"))
        if left_out:
            self.ignored.append((file, f"{left_out} lines of examples without a hyphen"))
        of_intent = self.examples.setdefault(name, [])
        of_intent += [(_ENTITY.sub(r"\1", text), split) for text in examples]

    def _add_response(self, name: str, variants: object, file: str) -> None:
        if name in self.answers:
            raise UnreadableSourceError("holds a response that another file holds too")
        found = variants if isinstance(variants, list) else []
        texts = [v["text"] for v in found if isinstance(v, dict) and isinstance(v.get("text"), str)]
        if texts:
            self.answers[name] = texts[0]
        if len(texts) != 1 or len(found) != 1:
            left = len(found) - 1 if texts else len(found)
            self.ignored.append((file, f"{left} further variants of {shown_name(name, 0)}"))

    def tables(self) -> tuple[RawTable, RawTable]:
        """The intents as FAQs, and their further examples as queries."""
        faqs: list[Record] = []
        queries: list[Record] = []
        for name, examples in self.examples.items():
            train = [text for text, split in examples if split == "train"]
            faqs.append([name, train[0] if train else None, self.answers.get(f"utter_{name}")])
            queries += [[text, name, "train"] for text in train[1:]]
            queries += [[text, name, split] for text, split in examples if split != "train"]
        answered = {f"utter_{name}" for name in self.examples}
        for name in sorted(set(self.answers) - answered):
            why = "the response answers no intent"
            self.ignored.append((f"response {shown_name(name, 0)}", why))
        file = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files of Rasa"
        kind = "Rasa YAML"
        return (
            RawTable(file, kind, ("faq_id", "question", "answer"), lambda: iter(faqs), "intents"),
            RawTable(file, kind, ("text", "faq_id", "split"), lambda: iter(queries), "examples"),
        )


def _entries(content: dict[str, object], section: str) -> list[object]:
    entries = content.get(section) or []
    if not isinstance(entries, list):
        raise UnreadableSourceError(f"holds `{section}` that is not a list")
    return entries


def _examples(value: object) -> tuple[list[str], int]:
    """The examples, and how many lines are none: a text with a hyphen a line, or a list."""
    if isinstance(value, list):
        texts = [entry.get("text") if isinstance(entry, dict) else entry for entry in value]
        lines = [line for text in texts for line in str(text or "").splitlines() if line.strip()]
        return [line.strip().removeprefix("- ").strip() for line in lines], 0
    lines = [line.strip() for line in str(value or "").splitlines() if line.strip()]
    found = [line[1:].strip() for line in lines if line.startswith("-")]
    return [text for text in found if text], len(lines) - len(found)
