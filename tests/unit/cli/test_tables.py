"""Tables keep every name whole at 80 columns."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import adapterdistill.cli
from adapterdistill.cli import demo
from adapterdistill.cli.tables import table
from adapterdistill.data import sample_names

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


@pytest.mark.parametrize("tenant", sample_names())
def test_the_demo_prints_each_tenant_on_one_line(tenant: str) -> None:
    seconds = dict.fromkeys(demo.STAGES, 123.4)
    metric = {"top1": SimpleNamespace(value=0.5)}
    report = SimpleNamespace(
        tenant=tenant,
        stage_seconds=lambda: seconds,
        evaluate=SimpleNamespace(held_out=SimpleNamespace(own=metric, distilled=metric)),
        distil=SimpleNamespace(trained=True),
        validate_stage=SimpleNamespace(counts={"faqs": 1234}),
        fetch_teachers=SimpleNamespace(teachers=range(16)),
        decide=SimpleNamespace(choice="distilled"),
    )
    answer = SimpleNamespace(
        tenant=tenant, asked="where is it " * 9, first="here " * 20, score=0.5, abstained=False
    )
    result = cast(Any, SimpleNamespace(reports=[report], answers=[answer]))
    text = printed(demo._tenants(result), demo._stages(result), demo._answers(result))
    assert text.count(f" {tenant} ") == 3
    assert "0.500 -> 0.500" in text and "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
