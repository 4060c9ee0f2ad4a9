"""`adapterdistill feedback ...`: label what the endpoint answered badly, and train on it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import Format, Output, number
from adapterdistill.cli.tables import table
from adapterdistill.data import Faq

app = typer.Typer(
    help="Label questions that the endpoint turned away or was unsure of, and take them into the "
    "tenant's data. `serve --feedback` keeps them.",
    no_args_is_help=True,
)
TenantFolder = Annotated[
    Path,
    typer.Argument(help="The tenant's folder in the serving store: STORE/TENANT."),
]


@app.command("list")
def list_(
    tenant: TenantFolder,
    limit: Annotated[int, number("Most questions to show.", low=1)] = 20,
    output: Output = Format.table,
) -> None:
    """Show kept questions, in the order in which to label them."""
    from adapterdistill.feedback import opened

    with opened(*_place(tenant)) as feedback:
        found = feedback.questions()[:limit]
    if output is Format.json:
        rows = [
            {
                "text": one.text,
                "times": one.times,
                "answered_with": one.faq_id,
                "confidence": one.confidence,
                "said_to_be_wrong": one.wrong,
                "label": None if one.out_of_scope else one.label,
                "out_of_scope": one.out_of_scope,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    shown = table("question", "times", "answered with", "label", right=("times",))
    for one in found:
        label = "out of scope" if one.out_of_scope else one.label or ""
        answered = "turned away" if one.faq_id is None else one.faq_id
        shown.add_row(Text(one.text), str(one.times), answered, label)
    Console().print(shown)


@app.command()
def label(tenant: TenantFolder) -> None:
    """Ask for the right FAQ of each kept question, in the terminal.

    Answer with a number, with the id of another FAQ, with `o` for out of scope, Enter to skip, or
    `q` to stop. Each label is kept at once.
    """
    from adapterdistill.feedback import opened
    from adapterdistill.labelling import nearest
    from adapterdistill.store.bundle import read_bundle
    from adapterdistill.store.release import live_bundle

    store, name = _place(tenant)
    faqs = {faq.faq_id: faq for faq in read_bundle(store, name, live_bundle(store, name)).faqs}
    with opened(store, name) as feedback:
        waiting = feedback.questions(labelled=False)
        typer.echo(f"{len(waiting)} questions have no label")
        number = 0
        for question in waiting:
            offered = nearest(question.text, [*faqs.values()])
            typer.echo(f"\n{question.text}  ({_asked(question.times)})")
            for place, faq in enumerate(offered, start=1):
                typer.echo(f"  {place}  {faq.question}  [{faq.faq_id}]")
            chosen = _chosen(offered, faqs)
            if chosen == "q":
                break
            if chosen is not None:
                feedback.tell(question.text, right="" if chosen == "o" else chosen)
                number += 1
        typer.echo(
            f"labels given: {number}. `adapterdistill feedback export` takes them into your data"
        )


@app.command()
def export(
    tenant: TenantFolder,
    data: Annotated[Path, typer.Argument(help="The tenant's folder of data, which changes.")],
) -> None:
    """Take kept questions into a tenant's data, for its next onboarding.

    Labelled ones become training queries or out-of-scope ones, and leave the store; the others
    become unlabelled queries. A question that the folder has already is not added again.
    """
    from adapterdistill.feedback import opened, take_into

    with opened(*_place(tenant)) as feedback:
        taken = take_into(feedback, data)
    typer.echo(
        f"{data}: {taken.labelled} labelled and {taken.unlabelled} unlabelled queries were added"
    )


def _place(tenant: Path) -> tuple[Path, str]:
    path = tenant.absolute()
    return path.parent, path.name


def _asked(times: int) -> str:
    return "asked once" if times == 1 else f"asked {times} times"


def _chosen(offered: list[Faq], faqs: dict[str, Faq]) -> str | None:
    """An FAQ's id, "o", "q", or None to skip; asks until it is one of these."""
    while True:
        said: str = typer.prompt(
            "number, id, o, q or Enter", default="", show_default=False
        ).strip()
        if said in ("o", "q"):
            return said
        if not said:
            return None
        if said.isdecimal() and 1 <= int(said) <= len(offered):
            return offered[int(said) - 1].faq_id
        if said in faqs:
            return said
        typer.echo("that is no FAQ")
