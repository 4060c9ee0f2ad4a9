"""`adapterdistill adapter ...`: trade adapters with the `adapters` library, and describe one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapterdistill.manifest import Manifest

app = typer.Typer(
    help="Trade adapters with the `adapters` library, and describe one.", no_args_is_help=True
)
BundleArgument = Annotated[
    Path,
    typer.Argument(
        help="A tenant's folder in a serving store, for its live bundle, or one bundle in it: "
        "STORE/TENANT or STORE/TENANT/versions/ID."
    ),
]


@app.command()
def export(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="FOLDER")],
) -> None:
    """Write an adapter as a folder of the `adapters` library.

    There, `model.load_adapter(FOLDER, use_safetensors=True)` loads it. The FAQs stay here.
    """
    from adapterdistill.adapters.interchange import write_folder
    from adapterdistill.bundle import read_bundle
    from adapterdistill.checkpoint import adapter_config, unpack_adapter
    from adapterdistill.release import locate

    found = read_bundle(*locate(bundle))
    manifest, adapter = found.manifest, unpack_adapter(found.adapter_payload)
    config = adapter_config(adapter, model_name=manifest.encoder.name)
    write_folder(
        out, adapter, name=manifest.tenant, model_type=manifest.encoder.model_type, config=config
    )
    typer.echo(f"{out}: adapter {manifest.tenant} of {manifest.encoder.name}")


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
    from adapterdistill.bundle import read_bundle
    from adapterdistill.errors import ConfigError
    from adapterdistill.manifest import Manifest
    from adapterdistill.release import locate

    if (folder / "live.json").exists() or folder.absolute().parent.name == "versions":
        return read_bundle(*locate(folder)).manifest
    if (folder / "manifest.json").is_file():
        return Manifest.from_json((folder / "manifest.json").read_bytes())
    what = "has no adapter that is described" if folder.is_dir() else "there is no such folder"
    raise ConfigError(
        f"{folder}: {what}: name STORE/TENANT, STORE/TENANT/versions/ID, or a folder that "
        "`adapterdistill registry fetch` wrote"
    )


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
