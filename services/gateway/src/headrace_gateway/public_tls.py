"""TLS of the listener for clients, who are no part of the mesh."""

from __future__ import annotations

from headrace_common.tls import Tls
from headrace_common.tls_files import TlsFiles
from headrace_gateway.config import GatewaySettings


def public_tls(settings: GatewaySettings) -> Tls | None:
    """A certificate of its own, else the gateway's; None for plaintext.

    Clients show certificates only where authorities are named for them: those of the mesh are for its services.

    Raises:
        ConfigError: SETTING_MISSING or SETTING_INVALID: a file can't be used, or one is missing.
    """
    if not settings.public_tls:
        return None
    own = settings.public_tls_certificate_file is not None or settings.public_tls_key_file is not None
    files = TlsFiles(
        certificate=settings.public_tls_certificate_file if own else settings.tls_certificate_file,
        key=settings.public_tls_key_file if own else settings.tls_key_file,
        authorities=settings.public_tls_ca_file,
        settings="HEADRACE_GATEWAY_PUBLIC_TLS" if own or settings.public_tls_ca_file is not None else "HEADRACE_TLS",
    ).checked()
    return Tls(files=files) if files is not None else None
