"""Tables keep every name whole at 80 columns."""

import ast
from pathlib import Path
from typing import Any

from rich.console import Console

import adapterdistill.cli
from adapterdistill.cli.tables import table

CLI = Path(adapterdistill.cli.__file__).parent


def printed(*tables: Any) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(*tables)
    return captured.get()


def test_a_name_that_is_too_long_for_its_column_is_folded_not_cut() -> None:
    shown = table("tenant", "adapter", "seconds", right=("seconds",))
    shown.add_row("t" * 63, "a" * 63, "1.5")
    text = printed(shown)
    assert text.count("t") >= 63 and text.count("a") >= 63
    assert "…" not in text and "..." not in text


def test_only_one_module_makes_tables_so_that_all_of_them_fold() -> None:
    makers = {
        path.name
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Table"
    }
    assert makers == {"tables.py"}
