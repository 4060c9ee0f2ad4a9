"""Links between documents lead somewhere, and the README keeps to its length."""

import re

import pytest

from tests.unit.documents.pages import ROOT, pages, text_of

MAX_README_BYTES = 8192
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Names under which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    broken = []
    for target, anchor in _LINK.findall(_FENCED.sub("", text_of(page))):
        if target.startswith(("http://", "https://")):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(str(path.resolve().relative_to(ROOT))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        ((ROOT / page).parent / target).resolve()
        for page in pages()
        for target, _ in _LINK.findall(text_of(page))
        if target and "://" not in target
    }
    alone = [page for page in pages() if page != "README.md" and ROOT / page not in linked]
    assert alone == []


def test_the_files_that_the_readme_names_as_stops_exist() -> None:
    stops = re.findall(r"^\d\. `([\w/]+\.py)`", text_of("README.md"), re.MULTILINE)
    assert len(stops) == 5
    assert [stop for stop in stops if not (ROOT / stop).is_file()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= MAX_README_BYTES
