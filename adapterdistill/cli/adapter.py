"""`adapterdistill adapter ...`: trade adapters with the `adapters` library, and describe one."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterdistill.cli.options import option

if TYPE_CHECKING:
    from adapterdistill.manifest import Manifest

app = typer.Typer(
    help="Trade adapters with the `adapters` library, and describe one.", no_args_is_help=True
)
BundleArgument = Annotated[
    str,
    typer.Argument(
        help="A tenant in a serving store, for its live bundle, or one of its bundles: "
        "STORE/TENANT or STORE/TENANT/ID."
    ),
]


@app.command()
def export(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="FOLDER")],
    to_hub: Annotated[
        str | None,
        option("Also publish it on the Hugging Face hub, as this model.", "OWNER/NAME"),
    ] = None,
    token_file: Annotated[
        Path | None, option("File with the hub's token, for --to-hub.", "FILE", "--token-file")
    ] = None,
    yes_publish: Annotated[
        bool, typer.Option("--yes-publish", help="Agree to the publication without being asked.")
    ] = False,
    hub: Annotated[str, option("Another hub.", "URL", "--hub")] = "https://huggingface.co",
) -> None:
    """Write an adapter as a folder of the `adapters` library.

    There, `model.load_adapter(FOLDER, use_safetensors=True)` loads it. The FAQs stay here.
    With --to-hub the adapter and its model card leave this machine.
    """
    from adapterdistill.adapters.interchange import write_folder
    from adapterdistill.checkpoint import adapter_config, unpack_adapter
    from adapterdistill.store.bundle import read_bundle
    from adapterdistill.store.release import locate

    found = read_bundle(*locate(bundle))
    manifest, adapter = found.manifest, unpack_adapter(found.adapter_payload)
    card = f"{_card(manifest)}\n"
    token = None if to_hub is None else _consent(to_hub, hub, manifest, token_file, yes_publish)
    config = adapter_config(adapter, model_name=manifest.encoder.name)
    write_folder(
        out, adapter, name=manifest.tenant, model_type=manifest.encoder.model_type, config=config
    )
    typer.echo(f"{out}: adapter {manifest.tenant} of {manifest.encoder.name}")
    if to_hub is not None and token is not None:
        from adapterdistill.adapters.hub import publish

        files = {file.name: file.read_bytes() for file in sorted(out.iterdir())}
        files["README.md"] = card.encode()
        typer.echo(
            f"published {', '.join(files)} at {publish(files, to_hub, token=token, hub=hub)}"
        )


def _consent(
    model: str, hub: str, manifest: "Manifest", token_file: Path | None, agreed: bool
) -> str:
    """The hub's token, once the owner has agreed.

    Raises:
        ConfigError: there is no token file, or the user did not consent.
    """
    from adapterdistill.errors import ConfigError
    from adapterdistill.files import read_secret

    if token_file is None:
        raise ConfigError("--to-hub needs --token-file FILE: a token of the hub that may write")
    token = read_secret(token_file).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"{token_file}: not a token: expected one line of visible characters")
    what = (
        f"This publishes the adapter {manifest.tenant}/{manifest.adapter} "
        f"{manifest.version[:12]} and its model card at {hub}/{model}, as a private model if it is "
        "new; one that is there keeps its visibility. The card names teachers and figures. What "
        f"the weights may reveal: {manifest.privacy}"
    )
    if not agreed and not sys.stdin.isatty():
        raise ConfigError(f"{what} To agree, give --yes-publish")
    if not agreed:
        typer.echo(what)
        typer.confirm("Publish it?", abort=True)
    return token


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="A folder of the `adapters` library.")],
    out: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")],
) -> None:
    """Read an adapter (`seq_bn`) of the `adapters` library, and write it as a payload.

    A payload is what manifests, bundles and the registry hold.
    """
    from adapterdistill.adapters.interchange import read_folder
    from adapterdistill.checkpoint import pack_adapter
    from adapterdistill.errors import ConfigError
    from adapterdistill.files import write_atomically

    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the file to write")
    adapter, model_name = read_folder(folder)
    write_atomically(out, pack_adapter(adapter, model_name=model_name))
    typer.echo(
        f"{out}: {adapter.num_layers} layers, {adapter.hidden_size} wide, bottleneck of "
        f"{adapter.bottleneck_size}"
    )


@app.command()
def card(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="A tenant's folder in a serving store, one bundle in it, or a folder that "
            "`adapterdistill registry fetch` wrote.",
            metavar="FOLDER",
        ),
    ],
) -> None:
    """Print a model card in Markdown: lineage, figures and privacy. It holds no text of yours."""
    typer.echo(_card(_manifest_in(bundle)))


def _manifest_in(folder: Path) -> "Manifest":
    """The manifest of a bundle, or of what `adapterdistill registry fetch` wrote.

    Raises:
        ConfigError: the folder is neither.
    """
    from adapterdistill.errors import ConfigError, ServingError
    from adapterdistill.manifest import Manifest
    from adapterdistill.store.bundle import read_bundle
    from adapterdistill.store.release import locate

    if (folder / "manifest.json").is_file():
        return Manifest.from_json((folder / "manifest.json").read_bytes())
    try:
        place = locate(folder)
    except ServingError:
        what = "has no adapter that is described" if folder.is_dir() else "there is no such folder"
        raise ConfigError(
            f"{folder}: {what}: name STORE/TENANT, STORE/TENANT/ID, or a folder that "
            "`adapterdistill registry fetch` wrote"
        ) from None
    return read_bundle(*place).manifest


def _card(manifest: "Manifest") -> str:
    encoder, shapes = manifest.encoder, manifest.tensors.items()
    figures = [f"| {name} | {m.value:.4f} | {m.count} |" for name, m in manifest.metrics.items()]
    teachers = [f"- `{teacher}`" for teacher in manifest.teachers]
    return "\n".join(
        [
            "---",
            "library_name: adapters",
            f"base_model: {encoder.name}",
            f"language: {manifest.language}",
            "tags: [adapter, seq_bn, faq-retrieval]",
            "---",
            "",
            f"# Adapter {manifest.adapter} of {manifest.tenant}",
            "",
            f"A bottleneck adapter ({manifest.kind}) for {manifest.task}, made by "
            f"`{manifest.method}` on the frozen encoder {encoder.name} ({encoder.model_type}, "
            f"{encoder.num_layers} layers, {encoder.hidden_size} wide).",
            "",
            f"- version: `{manifest.version}`",
            f"- encoder's weights: `{encoder.weights_sha256}`",
            f"- size: {manifest.payload_bytes} bytes: "
            + ", ".join(f"{name} {list(spec.shape)}" for name, spec in shapes),
            "",
            "## Figures on held-out queries of its owner",
            "",
            *(
                ["| figure | value | queries |", "|---|---|---|", *figures]
                if figures
                else ["None."]
            ),
            "",
            "## Lineage",
            "",
            *(teachers or ["It learnt from no other adapter."]),
            "",
            "## Privacy",
            "",
            manifest.privacy,
        ]
    )
