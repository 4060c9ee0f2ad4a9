"""`adapterdistill token ...`: bearer tokens of a serving deployment, in a file that it reads."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_secret
from adapterdistill.manifest import is_name
from adapterdistill.serve.tokens import Token, new_token, read_tokens, revoke

app = typer.Typer(
    help="Make and revoke tokens for the search endpoint. A running deployment follows each "
    "change within about a second.",
    no_args_is_help=True,
)
TokenFile = Annotated[
    Path, typer.Option("--tokens", help="The deployment's token file; it holds only hashes.")
]
Tenant = Annotated[str | None, typer.Option(help="The tenant whose paths the token opens.")]
Operator = Annotated[
    bool, typer.Option("--operator", help="A token of the operator, for /metrics and /docs.")
]


@app.command()
def new(
    tokens: TokenFile,
    tenant: Tenant = None,
    operator: Operator = False,
    days: Annotated[int, typer.Option(help="Days until it expires.", min=1, max=3650)] = 365,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="New file for the token, which only its owner can read."),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Make a token and print it once, or write it to a file.

    The tenant's other tokens stay valid until they are revoked.
    """
    holder = _holder(tenant, operator=operator)
    if out is not None and (out.exists() or not out.parent.is_dir()):  # before a token is made
        raise ConfigError(f"{out}: expected the name of a new file in an existing folder")
    text, token = new_token(tokens, holder, days=days)
    if out is not None:
        write_secret(out, f"{text}\n".encode())
        typer.echo(json.dumps(_shown(token)) if output is Format.json else f"token {token.id}")
    elif output is Format.json:
        typer.echo(json.dumps({"token": text, **_shown(token)}))
    else:
        typer.echo(text)


@app.command("list")
def list_(tokens: TokenFile, tenant: Tenant = None, output: Output = Format.table) -> None:
    """Show the holders of tokens and their expiry; never a token."""
    shown = [_shown(t) for t in read_tokens(tokens) if tenant in (None, t.tenant)]
    _print(shown, output)


@app.command("revoke")
def revoke_(
    tokens: TokenFile,
    tenant: Tenant = None,
    operator: Operator = False,
    token_id: Annotated[
        str | None, typer.Option("--id", help="One token, by its id in `list`. Default: all.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Revoke a tenant's tokens, or one of them."""
    gone = revoke(tokens, _holder(tenant, operator=operator), token_id)
    _print([_shown(token) | {"state": "revoked"} for token in gone], output)


def _holder(tenant: str | None, *, operator: bool) -> str | None:
    """The holder of the token; None: the operator. Raises ConfigError."""
    if operator is (tenant is not None):
        raise ConfigError("give either --tenant or --operator")
    if tenant is not None and not is_name(tenant):
        raise ConfigError("not a tenant name: expected lower-case letters, digits, . _ and -")
    return tenant


def _shown(token: Token) -> dict[str, str | None]:
    return {
        "id": token.id,
        "tenant": token.tenant,
        "created": token.created.isoformat(),
        "expires": token.expires.isoformat(),
        "state": "expired" if token.expired else "valid",
    }


def _print(shown: list[dict[str, str | None]], output: Format) -> None:
    if output is Format.json:
        typer.echo(json.dumps(shown, indent=2))
        return
    listed = table("id", "tenant", "created", "expires", "state")
    for row in shown:
        created, expires = (str(row[name])[:10] for name in ("created", "expires"))
        listed.add_row(row["id"], row["tenant"] or "(operator)", created, expires, row["state"])
    Console().print(listed)
