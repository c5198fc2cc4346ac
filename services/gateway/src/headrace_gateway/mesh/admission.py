"""Which runners may join, as what, and for how long."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import AuthError, ConfigError
from headrace_common.join_tokens import ANY_TENANT, TOKEN_CHARS_MAX, JoinToken, digest_of, read_join_tokens
from headrace_common.spiffe import RunnerIdentity, runner_identity
from headrace_gateway.mesh.isolation import TENANT_LABEL

_BEARER = "Bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a runner has shown, and what follows from it.

    Attributes:
        subject: Who it is: a certificate's URI, or `token:<id>`; empty where nobody is asked.
        tenant: What its label `tenant` must be, empty for none; `*` means that it may be anything.
        runner: Its only name; empty means any.
        ends_at: When what it has shown ends, and its session with it.
        digest: Of the token; empty for a certificate.
    """

    subject: str = ""
    tenant: str = ANY_TENANT
    runner: str = ""
    ends_at: datetime | None = None
    digest: str = ""

    def check(self, hello: mesh_pb2.Hello) -> None:
        """Compares what the runner claims.

        Raises:
            AuthError: JOIN_FORBIDDEN (PERMISSION_DENIED): its name or its tenant is another one.
        """
        if self.runner and hello.runner_name != self.runner:
            raise _forbidden("name", f"is for the runner '{self.runner}'")
        label = hello.labels.get(TENANT_LABEL, "")
        if self.tenant not in (ANY_TENANT, label):
            ours = f"runners of the tenant '{self.tenant}'" if self.tenant else "runners without a tenant"
            raise _forbidden(TENANT_LABEL, f"is for {ours}")


class RefusedRunner(AuthError):
    """A runner showed nothing that lets it in. All are told the same; `why` is for our log."""

    def __init__(self, why: str) -> None:
        super().__init__("the join token is not valid", entry=catalogue.JOIN_TOKEN_INVALID)
        self.why = why


class Admissions:
    """Decides from a certificate, a token and the clock. A file of tokens is read again when it has changed.

    A certificate that names a runner decides; otherwise a token does.

    Args:
        shared_token: A token of runners without a tenant, for any name and time.
        tokens_file: Digests of further ones. Taking one out ends the sessions that joined with it.
        certificates: Whether the listener demands certificates.
        trust_domain: Of the URIs that runners' certificates have.

    Raises:
        ConfigError: The file can't be used. Later that is logged, and the tokens known before stay.
    """

    def __init__(
        self, *, shared_token: str | None, tokens_file: Path | None, certificates: bool, trust_domain: str, clock: Clock
    ) -> None:
        self._shared = digest_of(shared_token) if shared_token else ""
        self._file = tokens_file
        self._open = not (shared_token or tokens_file or certificates)
        self._trust_domain = trust_domain
        self._clock = clock
        self._stamp = _stamp(tokens_file)
        self._tokens: dict[str, JoinToken] = read_join_tokens(tokens_file) if tokens_file is not None else {}
        self._log = structlog.stdlib.get_logger("mesh")

    def admit(self, *, certificate: bytes | None, authorization: str | bytes | None) -> Admission:
        """What the runner may be.

        Args:
            certificate: The peer's, in PEM; the listener has checked its chain and time.
            authorization: The call's header.

        Raises:
            RefusedRunner: JOIN_TOKEN_INVALID (UNAUTHENTICATED).
        """
        if certificate is not None and (admission := self._by_certificate(certificate)) is not None:
            return admission
        if self._open:
            return Admission()
        if not isinstance(authorization, str) or not authorization:
            raise RefusedRunner("no token" if certificate is None else "no token, and no runner's certificate")
        token = authorization.removeprefix(_BEARER)
        if token == authorization or not 0 < len(token) <= TOKEN_CHARS_MAX:
            raise RefusedRunner("malformed token")
        self._look()
        digest = digest_of(token)
        if self._shared and hmac.compare_digest(digest, self._shared):
            return Admission(subject="token:shared", tenant="", digest=digest)
        known = self._tokens.get(digest)
        if known is None:
            raise RefusedRunner("unknown token")
        if known.expires_at is not None and known.expires_at <= self._clock.now():
            raise RefusedRunner(f"token {known.id} has expired")
        return Admission(
            subject=f"token:{known.id}",
            tenant=known.tenant,
            runner=known.runner,
            ends_at=known.expires_at,
            digest=digest,
        )

    def holds(self, admission: Admission) -> bool:
        """Whether what the runner joined with would still let it in."""
        ends_at = admission.ends_at
        if admission.digest and admission.digest != self._shared:
            self._look()
            known = self._tokens.get(admission.digest)
            if known is None or (known.tenant, known.runner) != (admission.tenant, admission.runner):
                return False
            ends_at = known.expires_at
        return ends_at is None or ends_at > self._clock.now()

    def _by_certificate(self, pem: bytes) -> Admission | None:
        certificate = x509.load_pem_x509_certificate(pem)
        identity = _identity(certificate, self._trust_domain)
        if identity is None:
            return None
        return Admission(
            subject=identity.uri,
            tenant=identity.tenant,
            runner=identity.name,
            ends_at=certificate.not_valid_after_utc,
        )

    def _look(self) -> None:
        stamp = _stamp(self._file)
        if self._file is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = read_join_tokens(self._file)
        except ConfigError as error:
            self._log.error("join tokens can't be read; the known ones stay", why=error.message)
            return
        self._log.info("join tokens read again", tokens=len(self._tokens))


def _identity(certificate: x509.Certificate, trust_domain: str) -> RunnerIdentity | None:
    """The one runner that it names; None where it names none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return runner_identity(uris[0], trust_domain=trust_domain) if len(uris) == 1 else None


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None


def _forbidden(claim: str, why: str) -> AuthError:
    return AuthError(
        f"the runner's token or certificate {why}, and it claims another {claim}",
        entry=catalogue.JOIN_FORBIDDEN,
        context={"claim": claim},
    )
