"""Where TLS is kept, PEM by PEM, and what those files hold once they have been checked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.secrets import is_reference, read_secret
from headrace_common.settings import ServiceSettings

_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """What the files held when they were read: PEM bytes that have been checked.

    Attributes:
        expires_at: When our certificate ends; None without one.
        subject: Ours, for logs; empty without a certificate.
    """

    certificate: bytes | None = None
    key: bytes | None = None
    authorities: bytes | None = None
    expires_at: datetime | None = None
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files.

    Attributes:
        certificate: Our chain; clients without one authenticate only the server.
        key: The private key of `certificate`, as a path or another reference of `secrets.read_secret`.
        authorities: What the peer's certificate must chain to. A server with authorities demands client certificates.
        settings: How the variables begin that name the files; they end in _CERTIFICATE_FILE, _KEY_FILE and _CA_FILE.
    """

    certificate: Path | None = None
    key: Path | str | None = None
    authorities: Path | None = None
    settings: str = "HEADRACE_TLS"

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> TlsFiles | None:
        """The files of the process's TLS, or None for plaintext.

        Raises:
            ConfigError: SETTING_MISSING: one of certificate and key without the other.
        """
        files = cls(
            certificate=settings.tls_certificate_file, key=settings.tls_key_file, authorities=settings.tls_ca_file
        )
        return files.checked()

    def checked(self) -> TlsFiles | None:
        """The same, or None where no file is named.

        Raises:
            ConfigError: SETTING_MISSING: one of certificate and key without the other.
        """
        if (self.certificate is None) is not (self.key is None):
            variable = f"{self.settings}_KEY_FILE" if self.key is None else f"{self.settings}_CERTIFICATE_FILE"
            raise ConfigError(
                f"{variable} must be set: certificate and key belong together",
                entry=catalogue.SETTING_MISSING,
                context={"variable": variable},
            )
        return self if self.certificate is not None or self.authorities is not None else None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files whose change is to be noticed; a key that is elsewhere changes with its certificate."""
        named = [self.certificate, self.authorities]
        if self.key is not None and not (isinstance(self.key, str) and is_reference(self.key)):
            named.append(Path(self.key))
        return tuple(path for path in named if path is not None)

    def read(self, *, now: datetime | None = None) -> TlsMaterial:
        """Reads and checks all of them; may take as long as the key's reference does.

        Raises:
            ConfigError: One is missing, unreadable, no PEM, past its time or before it, or the key is another
                certificate's. Names the variable.
        """
        moment = now or datetime.now(UTC)
        authorities = self._read_authorities(moment) if self.authorities is not None else None
        if self.certificate is None or self.key is None:
            return TlsMaterial(authorities=authorities)
        chain = self._bytes(self.certificate, "CERTIFICATE_FILE")
        leaf = self._certificates(chain, "CERTIFICATE_FILE")[0]
        self._require_in_time([leaf], moment, "CERTIFICATE_FILE")
        key = self._read_key(self.key, leaf)
        return TlsMaterial(
            certificate=chain,
            key=key,
            authorities=authorities,
            expires_at=leaf.not_valid_after_utc,
            subject=leaf.subject.rfc4514_string(),
        )

    def _read_authorities(self, moment: datetime) -> bytes:
        assert self.authorities is not None
        pem = self._bytes(self.authorities, "CA_FILE")
        found = self._certificates(pem, "CA_FILE")
        # A bundle may hold authorities that have ended, as long as one hasn't.
        living = [one for one in found if one.not_valid_after_utc > moment]
        self._require_in_time(living or found, moment, "CA_FILE")
        return pem

    def _read_key(self, reference: Path | str, leaf: x509.Certificate) -> bytes:
        try:
            pem = read_secret(reference).encode()
        except ConfigError as error:
            raise self._wrong("KEY_FILE", f"can't be read: {error.message}") from None
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            raise self._wrong("KEY_FILE", "holds no private key in PEM without a passphrase") from None
        if key.public_key().public_bytes(*_SPKI) != leaf.public_key().public_bytes(*_SPKI):
            raise self._wrong("KEY_FILE", f"is not the key of {self.settings}_CERTIFICATE_FILE")
        return pem

    def _certificates(self, pem: bytes, setting: str) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise self._wrong(setting, "holds no certificate in PEM") from None

    def _require_in_time(self, certificates: list[x509.Certificate], moment: datetime, setting: str) -> None:
        for certificate in certificates:
            if certificate.not_valid_after_utc <= moment:
                raise self._wrong(setting, f"has expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
            if certificate.not_valid_before_utc > moment:
                raise self._wrong(setting, f"begins at {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")

    def _bytes(self, path: Path, setting: str) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            raise self._wrong(setting, "can't be read") from None

    def _wrong(self, setting: str, why: str) -> ConfigError:
        variable = f"{self.settings}_{setting}"
        return ConfigError(f"{variable} {why}", context={"variable": variable})
