"""`docs/troubleshooting.md` has a row for every reason and exit code that there is."""

from adapterdistill import errors
from adapterdistill.errors import AdapterDistillError, error_classes
from adapterdistill.registry.status import code_of
from tests.unit.documents.pages import section, table_rows

PAGE = "docs/troubleshooting.md"
WITHOUT_A_CLASS = {0, 130}
"""Exit codes of success and of Ctrl-C."""


def documented() -> dict[str, list[str]]:
    """Reason to the other cells of its row: exit code, gRPC status, meaning, what to do."""
    rows = table_rows(section(PAGE, "## Reasons"))
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def test_every_error_class_has_a_row_with_its_exit_code_and_status() -> None:
    expected = {
        kind.reason: [str(kind.exit_code), f"`{code_of(kind()).name}`"] for kind in error_classes()
    }
    assert {reason: cells[:2] for reason, cells in documented().items()} == expected


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    short = [reason for reason, cells in documented().items() if min(map(len, cells[2:4])) < 15]
    assert short == []
    assert all(len(cells) == 4 for cells in documented().values())


def test_every_exit_code_has_a_row() -> None:
    rows = table_rows(section(PAGE, "## Exit codes"))
    codes = {int(row[0]) for row in rows if row[0].isdigit()}
    assert codes == {kind.exit_code for kind in error_classes()} | WITHOUT_A_CLASS


def test_a_class_without_a_row_would_be_noticed() -> None:
    """What the first test compares with is every class, whichever module-level name it has."""
    every = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, AdapterDistillError)
    }
    assert set(error_classes()) == every
