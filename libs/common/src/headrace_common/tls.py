"""TLS that follows its files: what is opened after they have changed has the new certificate, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import grpc
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.settings import ServiceSettings
from headrace_common.tls_files import TlsFiles, TlsMaterial

_CHECK_S = 1.0
_AGAIN_CHECKS = 30

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Tls:
    """The present content of TLS files. `run` keeps it so; without it, it stays what it was at the start.

    Connections keep the certificate that they began with. Files that can't be used change nothing: an error is logged,
    and again every half minute as long as they are there.

    Args:
        files: Where to read; read at once.
        now: The time by which certificates are judged.

    Attributes:
        material: What new connections use; replaced as a whole, never changed. Any thread may look.
        reloads: How often other files were taken; `refused`, how often they could not be.

    Raises:
        ConfigError: As `TlsFiles.read`.
    """

    def __init__(self, *, files: TlsFiles, now: Callable[[], datetime] | None = None) -> None:
        self.files = files
        self._now = now
        self._stamp = self._settled = self._present()
        self.material = self._read()
        self.reloads = 0
        self.refused = 0
        self._wait = 0
        self._log = structlog.stdlib.get_logger("tls")

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Tls | None:
        """The process's TLS, or None for plaintext. Raises ConfigError where the files can't be used."""
        files = TlsFiles.from_settings(settings)
        return cls(files=files) if files is not None else None

    async def run(self) -> None:
        """Looks at the files once a second, off the loop, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """One look: files that have changed are read once they are the same twice in a row, so not half-written."""
        stamp = self._present()
        settled, self._settled = stamp == self._settled, stamp
        self._wait = max(0, self._wait - 1)
        if not settled or (stamp == self._stamp and not self._wait_is_over):
            return
        self._stamp = stamp
        try:
            material = self._read()
        except ConfigError as error:
            self.refused += 1
            self._wait = _AGAIN_CHECKS
            self._log.error("certificates can't be used; those in use stay", why=error.message)
            return
        self._wait = 0
        if material != self.material:
            self.material = material
            self.reloads += 1
            self._log.info("certificates read again", subject=material.subject, expires_at=str(material.expires_at))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for listening; each new connection gets the present certificate.

        Raises:
            ConfigError: SETTING_MISSING: there is no certificate to listen with.
        """
        if self.files.certificate is None:
            variable = f"{self.files.settings}_CERTIFICATE_FILE"
            raise ConfigError(
                f"{variable} must be set to listen with TLS",
                entry=catalogue.SETTING_MISSING,
                context={"variable": variable},
            )
        given = self.material

        def changed() -> Any:
            nonlocal given
            if given is self.material:
                return None
            given = self.material
            return _configuration(given)

        make: Any = grpc.dynamic_ssl_server_credentials  # pyright: ignore[reportUnknownMemberType]
        return make(_configuration(given), changed, require_client_authentication=self.files.authorities is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for dialling with the present certificate."""
        return channel_credentials(self.material)

    @property
    def _wait_is_over(self) -> bool:
        """Whether files that could not be used are to be tried again: they may have begun, or their vault be back."""
        return self._wait == 1

    def _read(self) -> TlsMaterial:
        return self.files.read(now=self._now() if self._now is not None else None)

    def _present(self) -> _Stamp:
        return tuple(_stamp(path) for path in self.files.paths)


class TlsMetrics(Collector):
    """Shows what becomes of certificates.

    Args:
        kept: By what they are for, such as `mesh`.
    """

    def __init__(self, *, kept: Mapping[str, Tls | None], registry: CollectorRegistry) -> None:
        self._kept = {name: tls for name, tls in kept.items() if tls is not None}
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Prometheus's hook."""
        ends = GaugeMetricFamily(
            "headrace_tls_certificate_expires_seconds", "When our certificate ends, Unix time", labels=("use",)
        )
        reads = CounterMetricFamily(
            "headrace_tls_reloads", "Changed certificates, taken or not", labels=("use", "outcome")
        )
        for name, tls in self._kept.items():
            if tls.material.expires_at is not None:
                ends.add_metric((name,), tls.material.expires_at.timestamp())
            reads.add_metric((name, "taken"), tls.reloads)
            reads.add_metric((name, "refused"), tls.refused)
        yield ends
        yield reads


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """Credentials for dialling."""
    return grpc.ssl_channel_credentials(
        root_certificates=material.authorities, private_key=material.key, certificate_chain=material.certificate
    )


def _configuration(material: TlsMaterial) -> Any:
    make: Any = grpc.ssl_server_certificate_configuration  # pyright: ignore[reportUnknownMemberType]
    return make([(material.key, material.certificate)], root_certificates=material.authorities)


def _stamp(path: Any) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
