"""`adapterdistill release ...`: choose which of a tenant's bundles its endpoint serves."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.errors import ConfigError, ServingError

app = typer.Typer(
    help="Choose which of a tenant's bundles its search endpoint serves, and try another beside "
    "it. Running deployments follow within about a second, without a restart. (To let a "
    "quarantined adapter teach, use `registry release-from-quarantine`.)",
    no_args_is_help=True,
)
Store = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|URI",
        help="The serving store that `serve` reads: a folder, or file:// or s3://.",
    ),
]
Tenant = Annotated[str, typer.Argument(help="The tenant.")]
BundleArgument = Annotated[
    str | None,
    typer.Argument(
        help="A bundle of the tenant: its name in `show`, or the beginning of its id. Default: "
        "the present candidate.",
    ),
]
_SHORT = 12


@app.command("list")
def list_(store: Store, output: Output = Format.table) -> None:
    """Show every tenant's live bundle and candidate."""
    from adapterdistill.store.release import read_release, tenants_in

    rows = []
    for tenant in tenants_in(store):
        try:
            release = read_release(store, tenant).model_dump(mode="json")
        except ServingError:
            release = {"tenant": tenant, "error": "damaged"}
        rows.append(release)
    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    # `show` and JSON also have the bundle before: three columns leave the names whole.
    shown = table("tenant", "live", "candidate")
    for row in rows:
        live = _short(row["bundle"]) if "bundle" in row else row["error"]
        shown.add_row(row["tenant"], live, _tried(row.get("candidate")))
    Console().print(shown)


@app.command()
def show(tenant: Tenant, store: Store, output: Output = Format.table) -> None:
    """Show a tenant's bundles, newest first, with the role of each."""
    from adapterdistill.store.release import bundles_of, read_release

    release = read_release(store, tenant).model_dump(mode="json")
    candidate = release.get("candidate") or {}
    roles = {
        release.get("before"): "before",
        candidate.get("bundle"): _mode(candidate),
        release["bundle"]: "live",
    }
    rows = [
        {"bundle": bundle_id, "written": written.isoformat(timespec="seconds"),
         "encoder": _encoder(store, tenant, bundle_id), "role": roles.get(bundle_id)}
        for bundle_id, written in bundles_of(store, tenant)
    ]  # fmt: skip
    if output is Format.json:
        typer.echo(json.dumps({**release, "bundles": rows}, indent=2))
        return
    shown = table("bundle", "written", "encoder", "", title=tenant)
    for row in rows:
        shown.add_row(
            _short(row["bundle"]), row["written"], Text(row["encoder"] or ""), row["role"] or "-"
        )
    Console().print(shown)


@app.command()
def canary(
    tenant: Tenant,
    store: Store,
    bundle: BundleArgument = None,
    share: Annotated[float, typer.Option(help="Share of the requests, 0 to 1.")] = 0.1,
    output: Output = Format.table,
) -> None:
    """Let a bundle answer a share of the tenant's requests, beside the live one."""
    from adapterdistill.store.release import put_up

    bundle_id = _named(store, tenant, bundle)
    _changed(put_up, store, tenant, output, bundle_id, mode="canary", share=share)


@app.command()
def shadow(
    tenant: Tenant,
    store: Store,
    bundle: BundleArgument = None,
    share: Annotated[float, typer.Option(help="Share of the requests, 0 to 1.")] = 1.0,
    output: Output = Format.table,
) -> None:
    """Let a bundle answer the live one's questions for comparison; its answers are never shown.

    `GET /v1/tenants/TENANT` of the endpoint reports the comparison.
    """
    from adapterdistill.store.release import put_up

    bundle_id = _named(store, tenant, bundle)
    _changed(put_up, store, tenant, output, bundle_id, mode="shadow", share=share)


@app.command()
def promote(tenant: Tenant, store: Store, output: Output = Format.table) -> None:
    """Make the candidate live."""
    from adapterdistill.store.release import promote as change

    _changed(change, store, tenant, output)


@app.command()
def drop(tenant: Tenant, store: Store, output: Output = Format.table) -> None:
    """Stop trying the candidate."""
    from adapterdistill.store.release import drop as change

    _changed(change, store, tenant, output)


@app.command()
def rollback(tenant: Tenant, store: Store, output: Output = Format.table) -> None:
    """Make the previous live bundle live again."""
    from adapterdistill.store.release import roll_back

    _changed(roll_back, store, tenant, output)


def _encoder(store: str, tenant: str, bundle_id: str) -> str:
    """The name of the encoder that the bundle is made for."""
    from adapterdistill.store.bundle import read_bundle, read_contents

    try:
        if read_contents(store, tenant, bundle_id).key is not None:
            return "encrypted"
        return read_bundle(store, tenant, bundle_id).manifest.encoder.name
    except ServingError:
        return "damaged"


def _named(store: str, tenant: str, text: str | None) -> str:
    """The id of the one bundle that the text names. Raises ConfigError: none or several match."""
    from adapterdistill.store.release import bundles_of, read_release

    if text is None:
        candidate = read_release(store, tenant).candidate
        if candidate is None:
            raise ConfigError(f"tenant {tenant} has no candidate: name a bundle, see `show`")
        return str(candidate.bundle)
    version, _, digest = text.partition("-")
    found = [
        bundle_id
        for bundle_id, _ in bundles_of(store, tenant)
        if bundle_id.startswith(version) and bundle_id[65:].startswith(digest)
    ]
    if len(found) != 1 or not version:
        many = f"{len(found)} bundles match" if found else "no bundle matches"
        raise ConfigError(f"tenant {tenant}: {many} {text!r}: give a name from `release show`")
    return found[0]


def _changed(
    change: Callable[..., Any], store: str, tenant: str, output: Format, *args: str, **how: Any
) -> None:
    release = change(store, tenant, *args, **how).model_dump(mode="json")
    if output is Format.json:
        typer.echo(json.dumps(release, indent=2))
        return
    typer.echo(f"{tenant}: live {_short(release['bundle'])}{_rest(release)}")


def _rest(release: Mapping[str, Any]) -> str:
    parts: Iterable[tuple[str, str]] = (
        ("before", _short(release.get("before"))),
        ("candidate", _tried(release.get("candidate"))),
    )
    return "".join(f", {name} {told}" for name, told in parts if told != "-")


def _short(bundle_id: str | None) -> str:
    """A short name that tells bundles apart: the start of the version and the whole digest."""
    return "-" if bundle_id is None else f"{bundle_id[:_SHORT]}{bundle_id[64:]}"


def _tried(candidate: Mapping[str, Any] | None) -> str:
    return "-" if candidate is None else f"{_short(candidate['bundle'])} ({_mode(candidate)})"


def _mode(candidate: Mapping[str, Any]) -> str:
    return f"{candidate['mode']} {candidate['share']:.3g}" if candidate else "-"
