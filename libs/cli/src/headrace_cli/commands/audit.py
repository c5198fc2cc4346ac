"""`headrace audit`: list and verify the log of administrative calls."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import printable
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import elapsed, output
from headrace_cli.usage_pages import audit_page

if TYPE_CHECKING:
    from headrace_client import Client

app = typer.Typer(help="Who changed what. For a tenant's admins; operators read any tenant's.", no_args_is_help=True)
_VERIFY_TIMEOUT_S = 300.0
_KNOWN = re.compile(r"([1-9]\d{0,18}):([0-9a-f]{64})")


def _known(text: str) -> str:
    if text and _KNOWN.fullmatch(text) is None:
        raise typer.BadParameter("write it as the command has said it: NUMBER:SHA256")
    return text


AnyTenant = Annotated[str, typer.Argument(metavar="[TENANT]", help="The tenant's id. Default: the caller's own.")]


@app.command("list")
@calls_mesh
def list_entries(
    session: Session,
    tenant: AnyTenant = "",
    method: Annotated[
        str, typer.Option("--method", help="Only of this one, as /headrace.quota.v1.QuotaService/SetLimits.")
    ] = "",
    actor: Annotated[str, typer.Option("--actor", metavar="key:ID", help="Only of this key or token.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
) -> None:
    """List administrative calls, the newest first: who called what, about what, and how it ended."""
    with session.client() as client:
        found = client.audit.entries(tenant=tenant, method=method, actor=actor, newest_first=True)
        entries = list(islice(found, limit))
    if session.as_json:
        print_json(entries)
    elif entries:
        output().print(audit_page(entries))
    else:
        output().print(Text("no entries"))


@app.command("verify")
@calls_mesh
def verify(
    session: Session,
    tenant: AnyTenant = "",
    known: Annotated[
        str,
        typer.Option(
            "--known",
            metavar="NUMBER:SHA256",
            callback=_known,
            help="What an earlier run has said; also a chain that was cut off or written anew is found so.",
        ),
    ] = "",
) -> None:
    """Compute the hashes of all entries anew and compare; exit status 1 where the chain is broken."""
    with session.client(timeout_s=_VERIFY_TIMEOUT_S) as client, elapsed("verifying"):
        name = tenant or client.tenants.get().id
        place = _verified(client, name, known)
    number, sha256 = place
    if session.as_json:
        print_json({"tenant": name, "entries": number, "sha256": sha256})
        return
    last = f"; the last one is {number}:{sha256}" if number else ""
    output().print(
        Text.assemble(("✓ ", "good"), f"{number} entries of ", (printable(name), "name"), f" are whole{last}")
    )


def _verified(client: Client, tenant: str, known: str) -> tuple[int, str]:
    """The last place of a whole chain and its hash.

    Raises:
        HeadraceError: AUDIT_BROKEN: it isn't whole.
    """
    from headrace_client.audit_chain import ChainCheck

    check = ChainCheck(tenant)
    number, _, sha256 = known.partition(":")
    for entry in client.audit.entries(tenant=tenant):
        if fault := check.fault(entry):
            raise _broken(tenant, fault)
        if str(check.sequence) == number and check.sha256.hex() != sha256:
            raise _broken(tenant, f"entry {number} is not the one that is known")
    if known and check.sequence < int(number):
        raise _broken(tenant, f"entry {check.sequence + 1} is missing: {number} is known to be there")
    return check.sequence, check.sha256.hex()


def _broken(tenant: str, fault: str) -> Exception:
    from headrace_cli.failures import AUDIT_BROKEN
    from headrace_client.errors import HeadraceError

    return HeadraceError(f"the audit log of {tenant} is broken: {fault}", AUDIT_BROKEN)
