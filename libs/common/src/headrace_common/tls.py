"""TLS from PEM files, mutual where authorities are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.secrets import read_secret
from headrace_common.settings import ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files.

    Attributes:
        certificate: Our chain; clients without one authenticate only the server.
        key: The private key of `certificate`, as a path or another reference of `secrets.read_secret`.
        authorities: What the peer's certificate must chain to. A server with authorities demands client certificates.
    """

    certificate: Path | None = None
    key: Path | str | None = None
    authorities: Path | None = None

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> TlsFiles | None:
        """The process's TLS, or None for plaintext.

        Raises:
            ConfigError: SETTING_MISSING: one of certificate and key without the other.
        """
        certificate, key, authorities = (
            settings.tls_certificate_file,
            settings.tls_key_file,
            settings.tls_ca_file,
        )
        if (certificate is None) is not (key is None):
            variable = "HEADRACE_TLS_KEY_FILE" if key is None else "HEADRACE_TLS_CERTIFICATE_FILE"
            raise ConfigError(
                f"{variable} must be set: certificate and key belong together",
                entry=catalogue.SETTING_MISSING,
                context={"variable": variable},
            )
        if certificate is None and authorities is None:
            return None
        return cls(certificate=certificate, key=key, authorities=authorities)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for listening. Raises ConfigError where a file is missing or unreadable."""
        if self.certificate is None or self.key is None:
            raise ConfigError(
                "HEADRACE_TLS_CERTIFICATE_FILE must be set to listen with TLS",
                entry=catalogue.SETTING_MISSING,
                context={"variable": "HEADRACE_TLS_CERTIFICATE_FILE"},
            )
        authorities = _read(self.authorities, "HEADRACE_TLS_CA_FILE") if self.authorities else None
        return grpc.ssl_server_credentials(
            [(read_secret(self.key).encode(), _read(self.certificate, "HEADRACE_TLS_CERTIFICATE_FILE"))],
            root_certificates=authorities,
            require_client_auth=authorities is not None,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for dialling. Raises ConfigError where a file is missing or unreadable."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.authorities, "HEADRACE_TLS_CA_FILE") if self.authorities else None,
            private_key=read_secret(self.key).encode() if self.key else None,
            certificate_chain=_read(self.certificate, "HEADRACE_TLS_CERTIFICATE_FILE") if self.certificate else None,
        )


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ConfigError(f"{variable} can't be read", context={"variable": variable}) from None
