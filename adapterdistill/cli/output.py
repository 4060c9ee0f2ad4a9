"""The two forms in which a command answers."""

from enum import StrEnum


class Format(StrEnum):
    """`--format`: a table for people or JSON for programs."""

    table = "table"
    json = "json"
