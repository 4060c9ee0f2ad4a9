"""`adapterdistill data ...`: make, check and describe a tenant's folder on the owner's machine."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import EncoderName, Format, Output, number, option
from adapterdistill.cli.tables import table
from adapterdistill.data import (
    TenantDataset,
    find_doubts,
    find_faults,
    import_samples,
    import_tenant,
    sample_names,
)
from adapterdistill.data.schema import local_folder
from adapterdistill.errors import ConfigError, DataError

if TYPE_CHECKING:  # they import torch
    from adapterdistill.backbone import Encoder
    from adapterdistill.evaluation.readability import Readability

app = typer.Typer(help="Make, check and describe tenant data.", no_args_is_help=True)


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a tenant that is there.")]
Folder = Annotated[str, typer.Argument(help="The tenant's folder: a local path.")]
MaxTokens = Annotated[
    int | None, number("Longer texts are cut. Default: the encoder's own.", "--max-tokens", low=8)
]
_ENCODER = "minilm-l6"
"""The encoder of a run whose TOML does not name one."""


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Folder with FAQs and maybe queries, or one file.")],
    target: Annotated[str, typer.Argument(help="The tenant folder to make.")],
    k: Annotated[int | None, typer.Option(help="Keep k training queries of each FAQ.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the splits.")] = 0,
    valid_fraction: Annotated[float, typer.Option(help="Training rows to hold out.")] = 0.0,
    test_fraction: Annotated[float, typer.Option(help="Training rows to set aside.")] = 0.0,
    encoding: Annotated[
        str | None, option("Encoding of text files that are not UTF-8, such as cp1252.", "NAME")
    ] = None,
    mapped: Annotated[
        list[str] | None,
        option(
            "Take a field from a column, as in question=FRAGE; may be repeated.",
            "FIELD=COLUMN",
            "--map",
        ),
    ] = None,
    overwrite: Overwrite = False,
    output: Output = Format.table,
) -> None:
    """Make a tenant folder from the tables that people have; on a fault nothing is written.

    Reads CSV in any dialect, JSON, Excel, Parquet, Arrow and Rasa's YAML, and prints what each
    column was taken for and what was left out.
    """
    try:
        imported = import_tenant(
            local_folder(source),
            local_folder(target),
            k=k,
            seed=seed,
            valid_fraction=valid_fraction,
            test_fraction=test_fraction,
            overwrite=overwrite,
            encoding=encoding,
            mapped=[_mapping(one) for one in mapped or ()],
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if output is Format.json:
        report = imported.report
        account = {
            "tables": [asdict(table) for table in report.tables],
            "ignored": [{"what": what, "why": why} for what, why in report.ignored],
            "notes": report.notes,
            "warnings": report.warnings,
        }
        typer.echo(json.dumps({"path": target, **imported.counts, "report": account}, indent=2))
        return
    for line in imported.report.lines():
        typer.echo(line)
    _show({"path": target, **imported.counts}, output)


def _mapping(pair: str) -> tuple[str, str]:
    field, sign, column = pair.partition("=")
    if not (field.strip() and sign and column.strip()):
        raise ValueError("--map takes FIELD=COLUMN, as question=QUESTIONS")
    return field.strip(), column.strip()


@app.command()
def validate(
    folder: Folder,
    encoder: EncoderName = _ENCODER,
    max_tokens: MaxTokens = None,
    output: Output = Format.table,
) -> None:
    """List every fault by file, row (from 0) and column. Exit code 3 if there is any.

    A sound tenant's texts in two splits or with contradicting labels are warned of by row, FAQs
    that the encoder cannot read or tell apart by id. Exit code 4 if it cannot read the tenant.
    """
    faults = find_faults(local_folder(folder))
    warnings = [] if faults else find_doubts(local_folder(folder))
    found = None
    if not faults:
        found, _ = _read_by(encoder, max_tokens, TenantDataset(local_folder(folder)))
    if found is not None:
        warnings += found.warnings()
    if output is Format.json:
        rows = [
            {"file": f.file, "row": f.row, "column": f.column, "problem": f.problem} for f in faults
        ]
        account = {"path": folder, "sound": not faults, "faults": rows, "warnings": warnings}
        typer.echo(json.dumps(account, indent=2))
    else:
        for line in (*map(str, faults), *(f"warning: {warning}" for warning in warnings)):
            typer.echo(line)
        told = f"{len(faults)} fault(s); rows count from 0" if faults else "no faults"
        typer.echo(f"{folder}: {told}")
    if faults:
        raise typer.Exit(DataError.exit_code)
    if found is not None:
        found.require()


@app.command()
def describe(
    folder: Folder,
    encoder: EncoderName = _ENCODER,
    max_tokens: MaxTokens = None,
    output: Output = Format.table,
) -> None:
    """Count FAQs, queries and the texts that an encoder cuts; name the content by its digest.

    FAQs that the encoder cannot read or tell apart are named by id. Exit code 4 if it cannot read
    the tenant.
    """
    from adapterdistill.distill.rows import count_cut

    dataset = TenantDataset.open(local_folder(folder))
    found, loaded = _read_by(encoder, max_tokens, dataset)
    cut = {f"cut_{name}": count for name, count in count_cut(dataset, loaded.reader).items()}
    read = {
        "unknown_tokens_percent": round(100 * found.unknown_share, 1),
        "faqs_unread": len(found.unread),
        "faqs_alike": found.num_alike,
    }
    counts = {**dataset.counts(), "max_tokens": loaded.max_tokens, **cut, **read}
    _show({"path": folder, **counts, "digest": dataset.digest()}, output)
    for warning in found.warnings():
        typer.echo(f"warning: {warning}", err=True)
    found.require()


def _read_by(
    encoder: str, max_tokens: int | None, dataset: TenantDataset
) -> tuple["Readability", "Encoder"]:
    """What the encoder makes of a sound tenant, and the encoder."""
    from adapterdistill.backbone import load_encoder
    from adapterdistill.distill.rows import tokenise
    from adapterdistill.evaluation.readability import check_readable

    loaded = load_encoder(encoder, max_tokens=max_tokens)
    rows = tokenise(dataset, loaded, seed=0, held_out_fraction=0.2)
    return check_readable(dataset.faqs(), rows.index(), loaded), loaded


@app.command()
def samples(
    target: Annotated[str, typer.Argument(help="Folder to make the tenant folders in.")],
    name: Annotated[
        list[str] | None, typer.Option(help="Only this sample; may be repeated.")
    ] = None,
    overwrite: Overwrite = False,
    output: Output = Format.table,
) -> None:
    """Write the invented sample tenants that ship with the project, one folder each."""
    parent = local_folder(target)
    names = name or sample_names()
    unknown = set(names) - set(sample_names())
    if unknown:
        raise DataError(f"no such sample tenant; there are {', '.join(sample_names())}")
    written = {
        sample: import_samples(sample, parent / sample, overwrite=overwrite) for sample in names
    }
    if output is Format.json:
        typer.echo(json.dumps(written, indent=2))
        return
    columns = ("faqs", "train", "valid", "test", "out_of_scope")
    shown = table("tenant", *columns)
    for sample, counts in written.items():
        shown.add_row(sample, *(str(counts[column]) for column in columns))
    Console().print(shown)


def _show(values: dict[str, str | int | float], output: Format) -> None:
    if output is Format.json:
        typer.echo(json.dumps(values, indent=2))
        return
    shown = table("what", "value", show_header=False)
    for key, value in values.items():
        shown.add_row(key, Text(str(value)))
    Console().print(shown)
