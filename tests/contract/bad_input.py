"""Bad input at every door: what comes in, and the exact words that it is refused with.

Each row is one input that a user, or somebody hostile, can send. Nothing that comes in is repeated
but names of files and keys: the value `SECRET` stands for a private text and never comes back.
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tests.contract.bad_commands import COMMANDS, LONG, SECRET


@dataclass(frozen=True)
class Row:
    door: str
    what: str
    given: Any
    said: str
    """All of the error; `{here}` is the test's folder."""


def toml(what: str, text: str | bytes, fault: str) -> Row:
    content = text if isinstance(text, bytes) else text.encode()
    said = f"error [INVALID_CONFIG]: {{here}}/run.toml: {fault}".replace(": \n", ":\n")
    return Row("toml", what, content, said)


def parquet(what: str, given: Any, fault: str) -> Row:
    said = f"error [INVALID_DATA]: {{here}}/acme: 1 fault(s); rows count from 0: {fault}"
    return Row("parquet", what, given, said)


def run(**changed: str) -> str:
    """A run's TOML, all of it sound but for what is given."""
    keys = {"tenant": "acme", "data": "data", "workspace": "w", "serving_store": "s"} | changed
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([*lines, "[registry]", 'address = "127.0.0.1:1"'])


NAME = "tenant: String should match pattern '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$'"
SETTINGS = "serving settings refused: "
INVALID = "422 INVALID_REQUEST "

FAQS = {"faq_id": ["a", "b"], "question": ["How much?", "How long?"], "answer": ["5", None]}
QUERIES = {
    "query_id": ["1", "2"],
    "text": ["what does it cost", "when"],
    "faq_id": ["a", "b"],
    "split": ["train", "train"],
}


def vast_texts() -> dict[str, dict[str, Any]]:
    """A text of a mebibyte in each of 128 rows, in a file of less than one."""
    rows = 128
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows), pa.array(["n" * (1 << 20)]))
    ids = [str(row) for row in range(rows)]
    return {
        "queries": {
            "query_id": ids,
            "text": text,
            "faq_id": ["a"] * rows,
            "split": ["train"] * rows,
        }
    }


ROWS = [
    *(Row("cli", *command) for command in COMMANDS),
    toml("a file beyond all bounds", "#" * (1 << 20) + "\n", "expected at most 1048576 bytes"),
    toml(
        "an empty file",
        "",
        "".join(
            f"\n  {key}: Field required" for key in ("tenant", "data", "workspace", "serving_store")
        ),
    ),
    toml(
        "bytes that are no text",
        b"\xff\xfe",
        "not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    toml("deep nesting", "a = " + "[" * 5000, "not TOML: nested too deeply"),
    toml(
        "a vast number",
        "a = " + "9" * 5000,
        "not TOML: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
        "digits; use sys.set_int_max_str_digits() to increase the limit",
    ),
    toml(
        "a key twice",
        'tenant = "a"\ntenant = "b"',
        "not TOML: Cannot overwrite a value (at end of document)",
    ),
    toml(
        "an unknown key",
        f'{SECRET} = "{SECRET}"\n' + run(),
        "canary-4711: is not a known key",
    ),
    toml(
        "a section with a letter too few",
        run() + "\n[trainig]\nextract_steps = 3",
        "trainig: is not a known key: did you mean training?",
    ),
    toml(
        "a key of a section with a letter too few",
        run() + "\n[training]\nextract_step = 3",
        "training.extract_step: is not a known key: did you mean extract_steps?",
    ),
    toml(
        "workers without a cluster",
        run() + "\n[training]\nnum_workers = 2",
        "training.num_workers = 2 needs a Ray cluster: leave out --local, or set it to 0",
    ),
    toml("a path for a tenant", run(tenant="../acme"), NAME),
    toml("a command for a tenant", run(tenant="a;rm -rf ~"), NAME),
    toml("a long tenant", run(tenant="a" * 5000), NAME),
    toml(
        "data elsewhere",
        run(data="s3://bucket/acme"),
        "data: Value error, must be a local path, not a URI: private data are read locally only",
    ),
    toml(
        "a zero in a path",
        run(data="a\0b"),
        "data: Value error, holds a character that no file's name can have",
    ),
    toml(
        "a name longer than a file's",
        run(data=LONG),
        "data: Value error, holds a name of over 255 bytes, which no file can have",
    ),
    toml(
        "a rate that is no number",
        run() + "\n[training]\nextract_learning_rate = nan",
        "training.extract_learning_rate: Input should be a finite number",
    ),
    parquet(
        "numbers for ids",
        {"faqs": {"faq_id": [1, 2]}},
        "faqs.parquet, column faq_id: column has the wrong type: expected string, got int64",
    ),
    parquet(
        "nested text",
        {"queries": {"text": [[SECRET], []]}},
        "queries.parquet, column text: column has the wrong type: expected string, got list",
    ),
    parquet(
        "bytes for text",
        {"queries": {"text": [b"\xff", b""]}},
        "queries.parquet, column text: column has the wrong type: expected string, got binary",
    ),
    parquet(
        "an unknown split",
        {"queries": {"split": [SECRET, "train"]}},
        "queries.parquet, row 0, column split: is not one of train, valid, test, unlabelled",
    ),
    parquet(
        "an unknown FAQ",
        {"queries": {"faq_id": [SECRET, "b"]}},
        "queries.parquet, row 0, column faq_id: names a FAQ that is not in the FAQ table",
    ),
    parquet(
        "an id twice",
        {"queries": {"query_id": ["1", "1"]}},
        "queries.parquet, row 1, column query_id: repeats the id of an earlier row",
    ),
    parquet(
        "a blank question",
        {"faqs": {"question": [" ", "x"]}},
        "faqs.parquet, row 0, column question: is empty or only white space",
    ),
    *(
        parquet(
            f"a question of {what}",
            {"faqs": {"question": [text, "x"]}},
            "faqs.parquet, row 0, column question: holds only characters that cannot be seen",
        )
        for what, text in {
            "zero-width spaces": "\u200b\u200b",
            "joiners and a byte order mark": "\u2060 \u200d\ufeff",
            "fillers": "\u3164\u2800\ufe0f",
        }.items()
    ),
    parquet(
        "no Parquet",
        b"PK\x03\x04" + SECRET.encode(),
        "queries.parquet: cannot be read: damaged, truncated or not parquet",
    ),
    parquet(
        "a small file that holds vast texts",
        vast_texts,
        "queries.parquet, row 0: texts are too long",
    ),
    Row("http", "no query", {}, INVALID + "the body must have either query or queries"),
    Row(
        "http",
        "a long query",
        {"query": SECRET * 200},
        INVALID + "query must be text of 1 to 2000 characters",
    ),
    Row(
        "http",
        "too many",
        {"queries": [SECRET] * 65},
        INVALID + "queries must be a list of 1 to 64 queries",
    ),
    Row(
        "http",
        "an unknown field",
        {"query": "x", SECRET: 1},
        INVALID
        + "the body has an unknown field: its fields are query, queries, top_k, alias, explain",
    ),
    Row(
        "http",
        "a body beyond all bounds",
        b" " * (2 << 20) + b"{}",
        "413 REQUEST_TOO_LARGE a body has at most 2097152 bytes",
    ),
    Row(
        "http",
        "deep nesting",
        b'{"query": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        INVALID + "the body cannot be decoded as JSON",
    ),
    Row(
        "http",
        "half a character",
        b'{"query": "\\ud800"}',
        INVALID + "query is not valid Unicode",
    ),
    Row(
        "http",
        "bytes that are no text",
        b'{"query": "\xff"}',
        INVALID + "the body cannot be decoded as JSON",
    ),
    Row(
        "http",
        "a vast number",
        b'{"query": "x", "top_k": ' + b"9" * 5000 + b"}",
        INVALID + "the body cannot be decoded as JSON",
    ),
    Row(
        "http",
        "no number",
        b'{"query": "x", "top_k": NaN}',
        INVALID + "top_k must be a whole number from 1 to 50",
    ),
    Row("http", "no object", [SECRET], INVALID + "the body must be a JSON object"),
    Row(
        "http", "no JSON", b'{"query": "' + SECRET.encode(), INVALID + "the body is not valid JSON"
    ),
    Row(
        "settings",
        "a folder of nowhere",
        {"store": "relative"},
        SETTINGS + "store: must be an absolute path",
    ),
    Row(
        "settings",
        "a zero in a path",
        {"store": "/a\0b"},
        SETTINGS + "store: holds a character that no file's name can have",
    ),
    Row(
        "settings",
        "an unknown key",
        {"store": "/s", SECRET: SECRET},
        SETTINGS + "canary-4711: is not a known setting",
    ),
    Row(
        "settings",
        "no room",
        {"store": "/s", "bank_mib": -1},
        SETTINGS + "bank_mib: Input should be greater than 0",
    ),
    Row(
        "settings",
        "a number in words",
        {"store": "/s", "threads": SECRET},
        SETTINGS + "threads: Input should be a valid integer, unable to parse string as an integer",
    ),
    Row(
        "grpc",
        "an unknown name",
        "acme",
        "INVALID_MANIFEST not a version name: expected "
        "tenants/TENANT/adapters/ADAPTER/versions/SHA256",
    ),
    Row(
        "grpc",
        "a message beyond all bounds",
        "n" * (9 << 20),
        "REGISTRY_UNAVAILABLE get: RESOURCE_EXHAUSTED",
    ),
    Row(
        "grpc",
        "a zero in a name",
        f"tenants/acme/adapters/faq/versions/{'0' * 64}\0",
        "INVALID_MANIFEST not a version name: expected "
        "tenants/TENANT/adapters/ADAPTER/versions/SHA256",
    ),
    Row(
        "grpc",
        "an absent version",
        f"tenants/acme/adapters/faq/versions/{'0' * 64}",
        f"NOT_FOUND no version tenants/acme/adapters/faq/versions/{'0' * 64}",
    ),
    Row(
        "grpc",
        "bytes that are no message",
        b"\xff" * 64,
        "INVALID_REQUEST the request is not a message of this call",
    ),
]
