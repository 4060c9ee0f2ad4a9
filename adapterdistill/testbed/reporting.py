"""Reports of benchmarks and drills as Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if not body:
        return "Nothing was run for this table."
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body])
