"""Tables of the registry's commands in terminals of different widths."""

import pytest

from adapterdistill.cli.tables import print_table

TENANT = "valtara-robotics-support-desk"
COLUMNS = {
    "tenant": [TENANT, "[bold]acme"],
    "state": ["active", "withdrawn"],
    "encoder": ["sentence-transformers/all-MiniLM-L6-v2", "x"],
    "KiB": ["600", "700"],
}


def printed(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, optional=("KiB", "encoder"))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, ["tenant", "state", "encoder", "KiB"]),
        (90, ["tenant", "state", "encoder"]),
        (50, ["tenant", "state"]),
    ],
)
def test_a_narrow_table_drops_columns_and_keeps_names(
    width: int,
    titles: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = printed(width, capsys, monkeypatch)
    assert [title for title in COLUMNS if title in shown.splitlines()[1]] == titles
    assert TENANT in shown and "[bold]acme" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_cell_that_does_not_fit_is_continued_on_the_next_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [
        line.split("│")[1].strip() for line in printed(30, capsys, monkeypatch).splitlines()[3:5]
    ]
    assert TENANT.startswith("".join(cells)) and len("".join(cells)) > 20
