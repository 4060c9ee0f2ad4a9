"""The documents as data: their fenced blocks, with the marks that say which test runs which block.

A fenced `sh` block has an HTML comment directly above it, in one of two forms:

    <!-- run by tests/e2e/test_documents.py: SESSION -->
    <!-- not run: REASON -->

Blocks of one session are run in one shell, page by page in the order of `SESSIONS`. A block whose
mark ends with `, last` is run after all others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RUNNER = "tests/e2e/test_documents.py"
SESSIONS = {
    "one machine": ("docs/data-owner.md", "README.md", "docs/operator.md", "docs/auditor.md"),
    "own data": ("docs/data-owner.md",),
    "certificates": ("docs/operator.md", "docs/auditor.md"),
    "drills": ("docs/operator.md",),
}
"""Sessions of commands, and the order in which their pages are read."""
LANGUAGES = {"sh", "python", "json", "toml", "text"}
_MARK = re.compile(
    rf"<!-- (?:run by (?P<test>{re.escape(RUNNER)}): (?P<session>[a-z ]+?)(?P<last>, last)?"
    r"|not run: (?P<reason>.{10,})) -->",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    """Line of the opening fence, from 1."""
    language: str
    text: str
    session: str | None = None
    last: bool = False
    reason: str | None = None
    """Why it is not run."""

    @property
    def marked(self) -> bool:
        return self.session is not None or self.reason is not None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Paths of all documents for people, relative to the repository's root."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "cluster/README.md"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks_in(text: str, page: str = "(text)") -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = text.splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        mark = _MARK.fullmatch(_comment_above(lines, opened))
        found = mark.groupdict() if mark else {}
        yield Block(
            page=page,
            line=opened + 1,
            language=lines[opened].strip().removeprefix("```"),
            text="".join(f"{one}\n" for one in lines[opened + 1 : number]),
            session=found.get("session"),
            last=bool(found.get("last")),
            reason=found.get("reason"),
        )
        opened = None


def _comment_above(lines: list[str], fence: int) -> str:
    """The HTML comment that ends on the line before the fence; empty if there is none."""
    if fence == 0 or not lines[fence - 1].endswith("-->"):
        return ""
    start = fence - 1
    while start > 0 and not lines[start].startswith("<!--"):
        start -= 1
    return "\n".join(lines[start:fence])


def blocks(page: str) -> list[Block]:
    return list(blocks_in(text_of(page), page))


def shell_blocks() -> list[Block]:
    """Every `sh` block of every document."""
    return [block for page in pages() for block in blocks(page) if block.language == "sh"]


def session_blocks(session: str) -> list[Block]:
    """The blocks of a session, in the order in which they are run."""
    found = [b for page in SESSIONS[session] for b in blocks(page) if b.session == session]
    return sorted(found, key=lambda block: block.last)


def table_rows(text: str) -> list[list[str]]:
    """Cells of every row of every table in the text, without headers' underlines."""
    rows = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]
    return [row for row in cells if not all(set(cell) <= set("-: ") for cell in row)]


def section(page: str, heading: str) -> str:
    """The text under a heading, to the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    after = text_of(page).split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]
