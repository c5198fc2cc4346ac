"""Makes an authority, and signs the certificates of services with it. Only `files.py` touches the disk."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clocks of one mesh may be this far apart.
_BACKDATED = timedelta(minutes=5)
_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_HOST_CHARS_MAX = 253
_DIGITAL_SIGNATURE = {
    "digital_signature": True,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key (EC P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Without a passphrase: the file's mode protects it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a certificate is to say.

    Attributes:
        name: The common name.
        uri: Who its holder is to the mesh.
        hosts: DNS names and addresses by which others reach it.
    """

    name: str
    uri: str
    hosts: Sequence[str]


def new_authority(name: str, *, now: datetime, lasts: timedelta) -> KeyPair:
    """An authority that signs services' certificates and no other authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _begun(subject, subject, key, now=now, ends_at=now + lasts)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**{**_DIGITAL_SIGNATURE, "key_cert_sign": True, "crl_sign": True}), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate=certificate, key=key)


def issue(authority: KeyPair, wanted: Wanted, *, now: datetime, lasts: timedelta) -> KeyPair:
    """A certificate with a key of its own: for dialling, and where it names hosts for listening, too.

    It ends with its authority at the latest.

    Raises:
        ValueError: A host is neither a DNS name nor an address, or the authority has ended.
    """
    issuer = authority.certificate
    if issuer.not_valid_after_utc <= now:
        raise ValueError(f"the authority has expired at {issuer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.name)])
    names = [x509.UniformResourceIdentifier(wanted.uri), *(alternative_name(host) for host in wanted.hosts)]
    uses = [*([ExtendedKeyUsageOID.SERVER_AUTH] if wanted.hosts else []), ExtendedKeyUsageOID.CLIENT_AUTH]
    ends_at = min(now + lasts, issuer.not_valid_after_utc)
    certificate = (
        _begun(subject, issuer.subject, key, now=now, ends_at=ends_at)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_DIGITAL_SIGNATURE), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return KeyPair(certificate=certificate, key=key)


def alternative_name(host: str) -> x509.GeneralName:
    """A host as certificates have it.

    Raises:
        ValueError: It is neither a DNS name (`*.` may stand in front) nor an address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > _HOST_CHARS_MAX or not _HOST.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"{host!r} is neither a DNS name nor an address") from None
    return x509.DNSName(host.lower())


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, now: datetime, ends_at: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(ends_at)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
