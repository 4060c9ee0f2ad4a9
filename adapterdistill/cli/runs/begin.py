"""`adapterdistill init` and `adapterdistill up`: begin with a folder of examples, or with a CSV."""

import re
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import option
from adapterdistill.data.importing import import_tenant
from adapterdistill.data.schema import local_folder
from adapterdistill.errors import ConfigError
from adapterdistill.files import private_folder, write_file
from adapterdistill.manifest import is_name

_HOME = Path("~/.adapterdistill")
_RUN = """\
# A run of `adapterdistill onboard --local --config {run}`. Lines after a `#` are defaults.
# docs/data-owner.md has every key.
tenant = "{tenant}"                 # lower-case letters, digits, `.`, `_`, `-`
# language = "und"                  # the FAQs' language, such as "en" or "de-AT"
data = "{home}/data"                # what `adapterdistill data import` makes
workspace = "{home}/work"           # state, adapters and reports: report.html says how it went
serving_store = "{home}/serving"    # what `adapterdistill serve` reads

[registry]
# Without an address, the adapter goes to a registry in the workspace, which nobody else sees.
# address = "registry.example.org:8443"    # other tenants' adapters teach yours
# credentials = "{home}/keys"              # made by `adapterdistill owner keygen`
# share_with = "everyone"                  # or "nobody", or ["brook", "mill"]

[encoder]
# name = "minilm-l6"                # English; "multilingual-e5-small" reads 95 languages

[training]
# threads = 1                       # idle cores that training may use

[release]
# mode = "live"                     # or "canary" or "shadow": try a later version first
# max_wrong_answers = 0.05          # answer fewer questions, and be wrong less often
"""
_FAQS = """\
faq_id,question,answer
parcel,Where is my parcel?,Open the link in the e-mail that we sent you.
refund,How do I get my money back?,Send the goods back within 30 days.
opening,When are you open?,From Monday to Friday from 9 to 17.
"""
_QUERIES = """\
text,faq_id
my package has not come,parcel
track order,parcel
i want to return these shoes,refund
do you open on saturday,opening
what is the weather tomorrow,none
who won the match,none
"""


def register(app: typer.Typer) -> None:
    """Add `init` and `up` to the root command."""
    app.command(name="init")(init)
    app.command(name="up")(up)


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", metavar="FOLDER")],
    tenant: Annotated[
        str | None, option("The tenant's name. Default: the folder's.", "NAME", "--tenant")
    ] = None,
) -> None:
    """Write a commented run.toml and examples of the files, and say what to do with them.

    Queries that no FAQ answers have `none` in the place of their FAQ. A few of them teach the
    system when to give no answer.
    """
    home = local_folder(folder).expanduser().absolute()
    name = _tenant(tenant, home.name)
    texts = {
        "run.toml": _RUN.format(tenant=name, home=home, run=home / "run.toml"),
        "source/faqs.csv": _FAQS,
        "source/queries.csv": _QUERIES,
    }
    there = [file for file in texts if (home / file).exists()]
    if there:
        raise ConfigError(f"{home}: holds {', '.join(there)} already: name another folder")
    private_folder(home)
    for file, text in texts.items():
        write_file(home / file, text.encode())
    typer.echo(f"wrote {', '.join(texts)} in {home}; put your own rows into the tables, then:")
    typer.echo(f"  adapterdistill data import {home}/source {home}/data")
    typer.echo(f"  adapterdistill onboard --local --config {home}/run.toml")
    typer.echo(f"  adapterdistill serve --store {home}/serving")
    typer.echo(f"or all at once: adapterdistill up {home}/source --tenant {name} --home {home}")


def up(
    source: Annotated[
        str, typer.Argument(help="A file with FAQs, or a folder with FAQs and queries.")
    ],
    tenant: Annotated[
        str | None, option("The tenant's name. Default: the source's.", "NAME", "--tenant")
    ] = None,
    home: Annotated[
        Path | None,
        option("Folder for all that is made. Default: ~/.adapterdistill/TENANT.", "FOLDER"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that HTTP listens on.")] = 8000,
    feedback: Annotated[
        bool,
        typer.Option("--feedback", help="Keep doubtful questions, and a few others."),
    ] = False,
) -> None:
    """Import FAQs, onboard them on defaults, and serve them until it is interrupted.

    Nothing leaves this machine. Run it again after the source has changed, or after `feedback
    export`: what that added is kept. With other settings, use `init`.
    """
    from adapterdistill.feedback import add_queries, exported
    from adapterdistill.serve.local_ray import check_port

    folder = local_folder(source).expanduser().absolute()
    name = _tenant(tenant, folder.stem)
    made = (home or _HOME / name).expanduser().absolute()
    check_port("127.0.0.1", port)
    private_folder(made)
    labelled = exported(made / "data")
    imported = import_tenant(folder, made / "data", overwrite=True)
    add_queries(made / "data", labelled)
    for line in imported.report.lines():
        typer.echo(line)
    _onboard(name, made)
    address = f"http://127.0.0.1:{port}"
    typer.echo(
        f'once it serves, ask in another terminal: adapterdistill query {name} "..." '
        f"--address {address}"
    )
    _serve(made, port, feedback=feedback)


def _onboard(tenant: str, home: Path) -> None:
    from adapterdistill.actors.onboarding import in_process, onboard, write_report
    from adapterdistill.config import parse_config

    places = {"data": "data", "workspace": "work", "serving_store": "serving"}
    values = {"tenant": tenant, **{key: str(home / place) for key, place in places.items()}}
    config = parse_config(values, source="up")
    write_report(config, onboard(config, in_process(config), emit=typer.echo))
    typer.echo(f"report: {home / 'work' / tenant / 'report.html'}")


def _serve(home: Path, port: int, *, feedback: bool) -> None:
    from adapterdistill.cli.serve import serve

    serve(str(home / "serving"), port=port, feedback=feedback)


def _tenant(given: str | None, place: str) -> str:
    """The tenant's name, by default made of a file's or folder's."""
    name = given or re.sub(r"[^a-z0-9._-]+", "-", place.casefold()).strip("-._")[:63]
    if not is_name(name):
        raise ConfigError(
            f"--tenant {given or place!r}: expected lower-case letters, digits, `.`, `_` and `-`"
        )
    return name
