"""Sentences for what a request's checks refuse, with each field's bounds.

No sentence repeats a value, a key that the caller invented, or a library's own words.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapterdistill.serve.http.schema import MAX_QUERIES, MAX_QUERY_CHARS, MAX_TOP_K

MUST_BE = {
    "tenant": "a name of 1 to 63 lower-case letters, digits, '.', '_' and '-', with a letter or a "
    "digit at each end",
    "query": f"text of 1 to {MAX_QUERY_CHARS} characters",
    "queries": f"a list of 1 to {MAX_QUERIES} queries",
    "top_k": f"a whole number from 1 to {MAX_TOP_K}",
    "alias": "live or canary",
    "explain": "true or false",
    "verdict": "right, wrong or out_of_scope",
    "faq_id": "text",
    "model": "a tenant's name",
    "input": f"a text of 1 to {MAX_QUERY_CHARS} characters, or a list of 1 to {MAX_QUERIES}",
    "encoding_format": "float or base64",
    "task": "the name of a task: 1 to 40 lower-case letters, digits and '_'",
    "texts": f"a list of 1 to {MAX_QUERIES} texts",
    "text_pairs": f"a list of 1 to {MAX_QUERIES} texts, one for each of texts",
    "the body": "a JSON object",
}
"""What each field of a request must be."""
_OTHERWISE = {
    "missing": "is missing",
    "string_unicode": "is not valid Unicode",
    "blank": "is blank",
    "json_invalid": "is not valid JSON",
    "json_undecodable": "cannot be decoded as JSON",
    "content_type": "must be sent with Content-Type: application/json",
    "query_or_queries": "must have either query or queries",
    "text_pairs": "must have as many text_pairs as texts",
    "verdict": "must have a faq_id with the verdict right, and only then",
    "faq_id": "is not an FAQ of the tenant",
}
"""Faults that are not about what a field must be."""


def sentence(fault: Mapping[str, Any], fields: Iterable[str]) -> str:
    """Say what is wrong with a field, for one of `ValidationError.errors()`.

    Args:
        fields: those of the request's body.
    """
    if fault["type"] == "extra_forbidden":
        return f"the body has an unknown field: its fields are {', '.join(fields)}"
    field, kind = field_of(fault["loc"]), fault["type"]
    if kind in _OTHERWISE:
        return f"{field} {_OTHERWISE[kind]}"
    return f"{field} must be {MUST_BE['query' if '[' in field else field]}"


def field_of(location: Sequence[int | str]) -> str:
    """The field at a location, with its place in a list: `queries[3]`."""
    path = [part for part in location if part not in ("body", "path")]
    if not path or path[0] not in MUST_BE:  # the second: a position in broken JSON
        return "the body"
    return str(path[0]) + "".join(f"[{part}]" for part in path[1:] if isinstance(part, int))
