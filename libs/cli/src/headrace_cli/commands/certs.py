"""`headrace certs`: a development authority, and certificates for the services of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import printable, table, words
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_cli.certificates.files import CertificateFiles, Shown

T = TypeVar("T")

app = typer.Typer(
    help="Certificates for TLS between the services of a mesh, by a development authority of its own.",
    no_args_is_help=True,
)
_DAYS_MAX = 36_500
Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the certificates.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="HOST", help="A further DNS name or address to be reached by. May be repeated."),
]
Days = Annotated[int, typer.Option("--days", min=1, max=_DAYS_MAX, help="How long certificates last.")]
AuthorityDays = Annotated[int, typer.Option("--ca-days", min=1, max=_DAYS_MAX, help="How long the authority lasts.")]
TrustDomain = Annotated[str, typer.Option("--trust-domain", help="Of the names, spiffe://DOMAIN/SERVICE.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Of the services on Kubernetes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
_FOLDER = Path("certs")
_SOON = timedelta(days=14)


@app.command("init")
def init(
    folder: Folder = _FOLDER,
    services: Annotated[
        list[str] | None,
        typer.Option("--service", metavar="NAME", help="Whom to make one for. May be repeated. Default: all of them."),
    ] = None,
    hosts: Hosts = None,
    days: Days = 90,
    ca_days: Annotated[
        int, typer.Option("--ca-days", min=1, max=_DAYS_MAX, help="How long the authority lasts.")
    ] = 3_650,
    namespace: Namespace = "headrace",
    trust_domain: TrustDomain = "headrace",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a development authority, and a certificate for each service.

    They are for localhost and for the services' names on Compose and Kubernetes. Keys are files of mode 0600. Keep
    ca.key where no service runs: whoever has it is everybody.
    """
    from headrace_cli.certificates.files import SERVICES, make_certificates, wanted_of

    def make(files: CertificateFiles) -> None:
        make_certificates(
            files,
            {
                name: wanted_of(name, hosts=hosts or (), namespace=namespace, trust_domain=trust_domain)
                for name in services or SERVICES
            },
            now=_now(),
            authority_lasts=timedelta(days=ca_days),
            lasts=timedelta(days=days),
            force=force,
        )

    _tell(_done(folder, make), as_json=as_json)


@app.command("issue")
def issue(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Whom it is for, such as gateway or runner.")],
    folder: Folder = _FOLDER,
    name: Annotated[str, typer.Option("--name", help="Name of the files. Default: the service.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose dedicated runner it is.")] = "",
    runner: Annotated[str, typer.Option("--runner", help="The only name that the runner may have.")] = "",
    hosts: Hosts = None,
    days: Days = 90,
    namespace: Namespace = "headrace",
    trust_domain: TrustDomain = "headrace",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make one certificate by the authority that is there."""
    from headrace_cli.certificates.files import issue_certificates, wanted_of

    if (tenant or runner) and service != "runner":
        raise typer.BadParameter("--tenant and --runner are for the service runner")
    chosen = name or service

    def make(files: CertificateFiles) -> None:
        wanted_of(chosen)
        wanted = wanted_of(
            service, hosts=hosts or (), tenant=tenant, runner=runner, namespace=namespace, trust_domain=trust_domain
        )
        issue_certificates(files, {chosen: wanted}, now=_now(), lasts=timedelta(days=days), force=force)

    _tell([one for one in _done(folder, make) if one.name == chosen], as_json=as_json)


@app.command("renew")
def renew(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which ones. Default: all but the authority.")
    ] = None,
    folder: Folder = _FOLDER,
    days: Days = 90,
    as_json: AsJson = False,
) -> None:
    """Make certificates anew that say the same, with new keys. Services take them within seconds, without a restart."""
    from headrace_cli.certificates.files import AUTHORITY, issue_certificates, renewed

    def make(files: CertificateFiles) -> None:
        chosen = names or [one.name for one in files.shown() if one.name != AUTHORITY]
        wanted = {name: renewed(files, name) for name in chosen if name != AUTHORITY}
        if not wanted:
            raise ValueError("there is nothing to renew; `headrace certs init --force` makes a new authority")
        issue_certificates(files, wanted, now=_now(), lasts=timedelta(days=days), force=True)

    _tell(_done(folder, make), as_json=as_json)


@app.command("show")
def show(folder: Folder = _FOLDER, as_json: AsJson = False) -> None:
    """Show whom the certificates of a folder are for, their names, and when they end."""
    shown = _done(folder, lambda _: None)
    if not shown:
        raise typer.BadParameter(f"{folder} holds no certificate; `headrace certs init` makes some", param_hint="--dir")
    _tell(shown, as_json=as_json)


def _done(folder: Path, change: Callable[[CertificateFiles], None]) -> Sequence[Shown]:
    """The folder's certificates after the change; what can't be becomes words for people."""
    if find_spec("headrace_common") is None:
        raise typer.BadParameter("the services are not installed: pip install 'headrace[mesh]'", param_hint="certs")
    from headrace_cli.certificates.files import CertificateFiles, CertificateFilesError
    from headrace_cli.failures import LOCAL_FILE
    from headrace_client.errors import HeadraceError

    files = CertificateFiles(folder)
    try:
        change(files)
        return files.shown()
    except CertificateFilesError as error:
        raise HeadraceError(str(error), LOCAL_FILE) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _tell(certificates: Sequence[Shown], *, as_json: bool) -> None:
    now = _now()
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "file": str(one.file),
                    "subject": one.subject,
                    "names": list(one.names),
                    "begins_at": one.begins_at.isoformat(),
                    "ends_at": one.ends_at.isoformat(),
                    "expired": one.ends_at <= now,
                }
                for one in certificates
            ]
        )
        return
    page = table("name", "subject", "names", "ends")
    for one in certificates:
        style = "bad" if one.ends_at <= now else "quiet" if one.ends_at > now + _SOON else ""
        ends = Text(f"{one.ends_at:%Y-%m-%d %H:%M}" + (" expired" if one.ends_at <= now else ""), style=style)
        page.add_row(Text(one.name, style="name"), words(one.subject), Text("\n".join(map(printable, one.names))), ends)
    output().print(page)


def _now() -> datetime:
    return datetime.now(UTC)
