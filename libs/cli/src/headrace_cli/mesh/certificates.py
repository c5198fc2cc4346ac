"""Certificates of a mesh on this machine, made anew at each start by an authority that stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from headrace_cli.certificates.files import (
    AUTHORITY,
    CertificateFiles,
    CertificateFilesError,
    issue_certificates,
    make_certificates,
    wanted_of,
)
from headrace_cli.mesh.failure import MeshError

_SERVICES = ("quota", "registry", "gateway", "runner")
_AUTHORITY_LASTS = timedelta(days=3_650)
_LASTS = timedelta(days=365)


def renew_certificates(folder: Path, *, tenant: str = "") -> None:
    """Makes the authority where there is none, and a certificate for each service.

    Args:
        folder: Where they are; made where it is missing.
        tenant: Whose dedicated runners the mesh has; empty for shared ones.

    Raises:
        MeshError: The authority of the folder can't be used, or the tenant is none.
    """
    files, now = CertificateFiles(folder), datetime.now(UTC)
    try:
        wanted = {name: wanted_of(name, tenant=tenant if name == "runner" else "") for name in _SERVICES}
        if files.certificate(AUTHORITY).exists():
            issue_certificates(files, wanted, now=now, lasts=_LASTS, force=True)
        else:
            make_certificates(files, wanted, now=now, authority_lasts=_AUTHORITY_LASTS, lasts=_LASTS, force=True)
    except (CertificateFilesError, ValueError) as error:
        raise MeshError(f"certificates for --tls can't be made: {error}") from None
