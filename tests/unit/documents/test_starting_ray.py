"""No document and no script starts Ray by hand, or sends a whole folder to it."""

import re

from tests.unit.documents.pages import ROOT, pages, text_of

STARTERS = {
    *("cluster/nodes/head.sh", "cluster/nodes/owner.sh", "cluster/nodes/worker.sh"),
    "cluster/single/start.sh",
}
"""What may call `ray start`; tests/unit/deployment/test_scripts.py looks at how they do."""


def test_no_document_starts_ray_without_the_scripts_or_sends_a_folder() -> None:
    told = {page: text_of(page) for page in pages()}
    found = re.compile(r"^\s*ray start|--working-dir[ =]\.", re.MULTILINE)
    assert [page for page, text in told.items() if found.search(text)] == []


def test_only_the_scripts_that_are_held_to_a_token_start_ray() -> None:
    scripts = {
        str(path.relative_to(ROOT)): path.read_text()
        for path in ROOT.glob("cluster/**/*")
        if path.is_file() and path.suffix in (".sh", ".yaml")
    }
    starts = re.compile(r"^[^#\n]*\bray start ", re.MULTILINE)
    assert {name for name, text in scripts.items() if starts.search(text)} == STARTERS
