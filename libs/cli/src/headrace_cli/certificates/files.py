"""The folder of a mesh's certificates: `ca.crt`, `ca.key`, and `<name>.crt`, `<name>.key` for each service."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace_cli.certificates.authority import KeyPair, Wanted, issue, new_authority
from headrace_common.secrets import write_secret_file
from headrace_common.spiffe import DEFAULT_TRUST_DOMAIN, service_uri

SERVICES = ("gateway", "registry", "quota", "runner", "http")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
AUTHORITY = "ca"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class CertificateFilesError(Exception):
    """The folder doesn't allow what was asked; says why in words for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A certificate of the folder, as people and programs see it."""

    name: str
    file: Path
    subject: str
    names: Sequence[str]
    begins_at: datetime
    ends_at: datetime


class CertificateFiles:
    """Reads and writes one folder. Keys are 0600, the folder is made 0700."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def require_free(self, names: Sequence[str]) -> None:
        """Raises CertificateFilesError where a file of these names exists."""
        for name in names:
            for path in (self.certificate(name), self.key(name)):
                if path.exists():
                    raise CertificateFilesError(f"{path} exists; --force replaces it")

    def write(self, name: str, pair: KeyPair) -> None:
        """The key first: whoever reads a pair that doesn't belong together looks again."""
        write_secret_file(self.key(name), pair.key_pem.decode())
        fresh = self.folder / f".{name}.crt.new"
        fresh.write_bytes(pair.certificate_pem)
        fresh.chmod(0o644)
        fresh.replace(self.certificate(name))

    def read_authority(self) -> KeyPair:
        """The authority of the folder. Raises CertificateFilesError where there is none, or it is no authority."""
        path = self.certificate(AUTHORITY)
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            key = serialization.load_pem_private_key(self.key(AUTHORITY).read_bytes(), None)
        except OSError as error:
            raise CertificateFilesError(f"there is no authority: {error.filename} can't be read") from None
        except (ValueError, TypeError):
            raise CertificateFilesError(f"{path} and its key are no PEM files of an authority") from None
        try:
            signs = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            signs = False
        if not signs or not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise CertificateFilesError(f"{path} and its key are no authority of EC keys that belong together")
        return KeyPair(certificate=certificate, key=key)

    def shown(self) -> list[Shown]:
        """Every certificate of the folder, the authority first. Raises CertificateFilesError for one that is none."""
        paths = sorted(self.folder.glob("*.crt"), key=lambda path: (path.stem != AUTHORITY, path.stem))
        return [_shown(path) for path in paths]


def make_certificates(
    files: CertificateFiles,
    wanted: Mapping[str, Wanted],
    *,
    now: datetime,
    authority_lasts: timedelta,
    lasts: timedelta,
    force: bool = False,
) -> None:
    """A new authority and these certificates, by file name.

    Raises:
        CertificateFilesError: A file exists and `force` is not set.
        ValueError: A certificate can't say what is wanted.
    """
    if not force:
        files.require_free([AUTHORITY, *wanted])
    authority = new_authority("headrace development CA", now=now, lasts=authority_lasts)
    pairs = {name: issue(authority, one, now=now, lasts=lasts) for name, one in wanted.items()}
    for name, pair in {AUTHORITY: authority, **pairs}.items():
        files.write(name, pair)


def issue_certificates(
    files: CertificateFiles, wanted: Mapping[str, Wanted], *, now: datetime, lasts: timedelta, force: bool = False
) -> None:
    """These certificates, by the folder's authority. Raises as `make_certificates`."""
    if not force:
        files.require_free(list(wanted))
    authority = files.read_authority()
    pairs = {name: issue(authority, one, now=now, lasts=lasts) for name, one in wanted.items()}
    for name, pair in pairs.items():
        files.write(name, pair)


def wanted_of(
    service: str,
    *,
    hosts: Sequence[str] = (),
    tenant: str = "",
    runner: str = "",
    namespace: str = "headrace",
    trust_domain: str = DEFAULT_TRUST_DOMAIN,
) -> Wanted:
    """What a service's certificate says: who it is, this machine, its names on compose and Kubernetes, and `hosts`.

    A runner's names no host.

    Raises:
        ValueError: The service has no such name.
    """
    if not _NAME.fullmatch(service) or service == AUTHORITY:
        raise ValueError(f"a service's name has lower-case letters, digits, dots and dashes, not {service!r}")
    uri = service_uri(service, tenant=tenant, name=runner, trust_domain=trust_domain)
    if service == "runner":
        # Runners listen for nobody, and must not pass for who does.
        return Wanted(name=service, uri=uri, hosts=[])
    heads = (service, *(("gateway-mesh",) if service == "gateway" else ()))
    cluster = [name for head in heads for name in (head, f"{head}.{namespace}", _fqdn(head, namespace))]
    return Wanted(name=service, uri=uri, hosts=list(dict.fromkeys([*LOCAL_HOSTS, *cluster, *hosts])))


def renewed(files: CertificateFiles, name: str) -> Wanted:
    """What the certificate of that name says now. Raises CertificateFilesError where there is none of ours."""
    certificate = _certificate(files.certificate(name))
    names = _alternative_names(certificate)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    commons = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if names is None or len(uris) != 1 or not commons:
        raise CertificateFilesError(f"{files.certificate(name)} is no certificate that `headrace certs` made")
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return Wanted(name=str(commons[0].value), uri=uris[0], hosts=hosts)


def _fqdn(head: str, namespace: str) -> str:
    return f"{head}.{namespace}.svc.cluster.local"


def _shown(path: Path) -> Shown:
    certificate = _certificate(path)
    names = _alternative_names(certificate)
    return Shown(
        name=path.stem,
        file=path,
        subject=certificate.subject.rfc4514_string(),
        names=[str(name.value) for name in names] if names is not None else [],
        begins_at=certificate.not_valid_before_utc,
        ends_at=certificate.not_valid_after_utc,
    )


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError:
        raise CertificateFilesError(f"{path} can't be read") from None
    except ValueError:
        raise CertificateFilesError(f"{path} holds no certificate in PEM") from None


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
