"""One table of what people bring: each source becomes the right tenant, or is refused in words.

Nothing is dropped in silence: what is not in the tenant is named in what is printed.
"""

import re
from pathlib import Path

import pytest

from adapterdistill.data import TenantDataset, import_tenant
from adapterdistill.errors import DataError
from tests.unit.data.brought import Brought
from tests.unit.data.brought_books import BOOKS
from tests.unit.data.brought_folders import FOLDERS_AND_LABELS
from tests.unit.data.brought_meaning import MEANING
from tests.unit.data.brought_text import TEXT

TABLE: dict[str, Brought] = {**TEXT, **BOOKS, **FOLDERS_AND_LABELS, **MEANING}
LIBRARY_WORDS = re.compile(
    r"[A-Z][a-z]+(Error|Exception|Invalid)\b|Traceback|pyarrow|openpyxl|csv\.Error"
)


def lay_out(brought: Brought, folder: Path) -> Path:
    for name, content in brought.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder if brought.file is None else folder / brought.file


@pytest.mark.parametrize("name", TABLE)
def test_source_becomes_the_right_tenant_or_is_refused_in_words(name: str, tmp_path: Path) -> None:
    brought = TABLE[name]
    source, target = lay_out(brought, tmp_path / "source"), tmp_path / "tenant"
    if brought.refused:
        with pytest.raises(DataError) as caught:
            import_tenant(source, target, **brought.options)
        message = str(caught.value)
        assert not target.exists() and "secret" not in message
        assert not LIBRARY_WORDS.search(message)
        assert [words for words in brought.refused if words not in message] == []
        assert all(line.startswith("  ") for line in message.splitlines()[1:])
        return
    imported = import_tenant(source, target, **brought.options)
    tenant = TenantDataset.open(target)
    if brought.faqs is not None:
        found = [(faq.faq_id, faq.question, faq.answer) for faq in tenant.faqs()]
        wanted = [
            (want[0] or have[0], *want[1:]) for want, have in zip(brought.faqs, found, strict=True)
        ]
        assert found == wanted
    if brought.queries is not None:
        rows = [(query.text, query.faq_ids, query.split) for query in tenant.queries()]
        assert rows == list(brought.queries)
    said = "\n".join(imported.report.lines())
    assert [words for words in brought.says if words not in said] == []
