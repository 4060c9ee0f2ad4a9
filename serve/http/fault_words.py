"""Words for what a request's checks refuse: the bound, never the value or a library's own name."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this request",
    "model_attributes_type": "expected a JSON object",
    "model_type": "expected a JSON object",
    "dict_type": "expected a JSON object",
    "json_invalid": "is not valid JSON",
    "list_type": "expected a list",
    "string_type": "expected text",
    "string_unicode": "is not valid Unicode",
    "string_too_long": "is too long: at most {max_length} characters",
    "string_too_short": "is too short: at least {min_length} character(s)",
    "string_pattern_mismatch": "is not a name of that form: {pattern}",
    "too_long": "has too many entries: at most {max_length}",
    "too_short": "has too few entries: at least {min_length}",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "is out of range",
    "int_from_float": "expected a whole number",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "expected {expected}",
}
_OWN = frozenset(("blank", "query_or_queries"))
"""Kinds that this project's own checks raise, with their own words."""


def fault_words(fault: Mapping[str, Any]) -> str:
    """Say what is wrong with a field, for one of `ValidationError.errors()`."""
    if fault["type"] in _OWN:
        return str(fault["msg"])
    words = _WORDS.get(fault["type"], "is not valid")
    return words.format_map(fault.get("ctx", {})) if "{" in words else words
