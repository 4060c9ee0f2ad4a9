"""Bad input at every door: what comes in, and the exact words that it is refused with.

Each row is one input that a user, or somebody hostile, can send. Nothing that comes in is repeated
but names of files and keys: the value `SECRET` stands for a private text and never comes back.
"""

import json
from dataclasses import dataclass
from typing import Any

SECRET = "canary-4711"
LONG = "n" * 300


@dataclass(frozen=True)
class Row:
    door: str
    what: str
    given: Any
    said: str
    """All of the error; `{here}` is the test's folder."""


def toml(what: str, text: str | bytes, fault: str) -> Row:
    content = text if isinstance(text, bytes) else text.encode()
    return Row("toml", what, content, f"error [INVALID_CONFIG]: {{here}}/run.toml: {fault}")


def parquet(what: str, given: dict[str, dict[str, list[Any]]] | bytes, fault: str) -> Row:
    said = f"error [INVALID_DATA]: {{here}}/acme: 1 fault(s); rows count from 0 {fault}"
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

ROWS = [
    Row(
        "cli",
        "an address that is none",
        ["query", "acme", "x", "--address", "here"],
        "error [INVALID_CONFIG]: not an address: here",
    ),
    Row(
        "cli",
        "nobody there",
        ["query", "acme", "x", "--address", "http://127.0.0.1:1"],
        "error [SERVING_ERROR]: no answer from http://127.0.0.1:1 (ConnectError)",
    ),
    Row(
        "cli",
        "a path for a tenant",
        ["query", "../acme", SECRET],
        "error [INVALID_CONFIG]: not a tenant name: expected lower-case letters, digits, . _ and -",
    ),
    Row(
        "cli",
        "bytes that are no text",
        ["query", "acme", f"{SECRET}\udcff"],
        "error [INVALID_CONFIG]: the question is not valid UTF-8",
    ),
    Row(
        "cli",
        "open to everybody",
        ["serve", "--store", "s", "--host", "0.0.0.0"],
        "error [INVALID_CONFIG]: --host 0.0.0.0 is open to others, who could ask for every tenant: "
        "give --tokens FILE (see `adapterdistill token new`)",
    ),
    Row(
        "cli",
        "no such encoder",
        ["serve", "--store", "s", "--encoder", "./none"],
        "error [INVALID_CONFIG]: encoder folder does not exist: ./none",
    ),
    Row(
        "cli",
        "a name longer than a file's",
        ["data", "describe", LONG],
        f"error [FILE_ERROR]: {LONG}/faqs.parquet: File name too long",
    ),
    Row(
        "cli",
        "a name that is no version's",
        ["registry", "show", "acme", "--address", "127.0.0.1:1"],
        "error [INVALID_MANIFEST]: not a version name: expected "
        "tenants/TENANT/adapters/ADAPTER/versions/SHA256",
    ),
    Row(
        "cli",
        "no registry there",
        ["registry", "list", "--address", "127.0.0.1:1", "--timeout", "1"],
        "error [REGISTRY_UNAVAILABLE]: list at registry 127.0.0.1:1: UNAVAILABLE",
    ),
    Row(
        "cli",
        "no such tokens",
        ["token", "list", "--tokens", "none"],
        "error [INVALID_CONFIG]: none: No such file or directory",
    ),
    toml(
        "an empty file",
        "",
        "; ".join(
            f"{key}: Field required"
            for key in ("tenant", "data", "workspace", "serving_store", "registry")
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
        "canary-4711: Extra inputs are not permitted",
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
    parquet(
        "no Parquet",
        b"PK\x03\x04" + SECRET.encode(),
        "queries.parquet: cannot be read: damaged, truncated or not parquet",
    ),
    Row("http", "no query", {}, INVALID + "body: query_or_queries"),
    Row("http", "a long query", {"query": SECRET * 200}, INVALID + "body.query: string_too_long"),
    Row("http", "too many", {"queries": [SECRET] * 65}, INVALID + "body.queries: too_long"),
    Row(
        "http",
        "an unknown field",
        {"query": "x", SECRET: 1},
        INVALID + "body.(unknown field): extra_forbidden",
    ),
    Row(
        "http",
        "a body beyond all bounds",
        b" " * (2 << 20) + b"{}",
        "413 REQUEST_TOO_LARGE a body has at most 2097152 bytes",
    ),
    Row("http", "no JSON", b'{"query": "' + SECRET.encode(), INVALID + "body.10: json_invalid"),
    Row(
        "settings",
        "a folder of nowhere",
        {"store": "relative"},
        SETTINGS + "store: must be an absolute path",
    ),
    Row(
        "settings",
        "an unknown key",
        {"store": "/s", SECRET: SECRET},
        SETTINGS + "canary-4711: Extra inputs are not permitted",
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
        "an absent version",
        f"tenants/acme/adapters/faq/versions/{'0' * 64}",
        f"NOT_FOUND no version tenants/acme/adapters/faq/versions/{'0' * 64}",
    ),
    Row(
        "grpc",
        "bytes that are no message",
        b"\xff" * 64,
        "INVALID_REQUEST the bytes that came are no message of this call",
    ),
]
