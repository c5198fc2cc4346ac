"""Certificates made on the spot, for servers and clients on 127.0.0.1."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace_common.tls_files import TlsFiles


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(self.name, self.key, authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, uri: str | None = None, ends_in: timedelta = timedelta(hours=1)) -> TlsFiles:
        """A certificate of that common name; issued again it replaces the files.

        Args:
            name: Of the subject, and of the files.
            uri: A second alternative name.
            ends_in: From now; may be past.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = TlsFiles(
            certificate=self.directory / f"{name}.crt", key=self.directory / f"{name}.key", authorities=self.file
        )
        assert files.certificate is not None
        assert isinstance(files.key, Path)
        certificate = self._signed(subject, key, authority=False, uri=uri, ends_in=ends_in)
        _replace(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        pkcs8, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        _replace(files.key, key.private_bytes(serialization.Encoding.PEM, pkcs8, bare))
        return files

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool,
        uri: str | None = None,
        ends_in: timedelta = timedelta(hours=1),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if uri is not None:
            names.append(x509.UniformResourceIdentifier(uri))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + ends_in)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def _replace(path: Path, content: bytes) -> None:
    """Another file in its place: one that is written twice within a clock's tick looks the same from outside."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(content)
    fresh.replace(path)
