"""What an HTTP front can be told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace_common import catalogue
from headrace_common.addresses import is_loopback, parse_address
from headrace_common.errors import ConfigError
from headrace_common.settings import CommaList, ServiceSettings


class HttpSettings(ServiceSettings):
    """Settings of one HTTP front; the shared ones are in `ServiceSettings`."""

    service: ClassVar[str] = "http"

    name: str = Field("http-0", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description="Name in logs and metrics.")
    address: str = Field("127.0.0.1:8080", description="host:port of the HTTP listener; port 0 means any.")
    share_port: bool = Field(
        False, description="Let other fronts on this machine listen on the same port; new connections go to any."
    )
    gateway_address: str = Field(
        min_length=1,
        description="host:port of the gateway that serves the calls; by TLS where HEADRACE_TLS_CA_FILE is set and the "
        "address is not loopback.",
    )
    client_ca_file: Path | None = Field(
        None, description="PEM authorities of which clients need a certificate; empty means that they need none."
    )
    body_bytes_max: int = Field(
        64 << 20, ge=1 << 10, le=1 << 30, description="Largest body of a request, uploads of models apart, bytes."
    )
    upload_bytes_max: int = Field(8 << 30, ge=1 << 10, description="Largest upload of a model, bytes.")
    uploads_max: int = Field(
        4, ge=1, description="Uploads of models at once; each waits whole in the state folder for the registry."
    )
    bodies_bytes_max: int = Field(
        256 << 20, ge=1 << 16, description="Bytes of all requests' bodies held at once; more are refused."
    )
    body_timeout_s: float = Field(
        10.0, gt=0, description="Time in which a body must arrive, seconds, and more for each byte that has arrived."
    )
    body_rate_min: int = Field(
        64 << 10, ge=1, description="Bytes a second of a body that arrive in time however large it is."
    )
    head_timeout_s: float = Field(10.0, gt=0, description="Time in which a request's head must arrive, seconds.")
    head_bytes_max: int = Field(
        32 << 10, ge=1 << 10, le=1 << 20, description="Largest head of a request, path and headers together, bytes."
    )
    headers_max: int = Field(100, ge=8, le=10_000, description="Most headers of a request.")
    idle_timeout_s: float = Field(
        60.0, gt=0, description="How long a connection without a request is kept open, seconds."
    )
    write_timeout_s: float = Field(
        30.0, gt=0, description="How long a client may take nothing of its answer before it is cut off, seconds."
    )
    connections_max: int = Field(4_096, ge=1, description="Connections at once; more are refused.")
    streams_max: int = Field(512, ge=1, description="Server-sent event streams at once; more are refused.")
    sessions_max: int = Field(
        1_024, ge=1, description="Credentials for which streams to the gateway are kept open at once."
    )
    batch_requests_max: int = Field(256, ge=1, description="Requests of one /v1/infer/batch.")
    access_log: bool = Field(
        True, description="Whether each request writes a line, at the log levels info and debug; it has no credential."
    )
    cors_origins: CommaList = Field(
        (), description="Origins whose pages may call, as https://app.example.com,… or * for any; none by default."
    )


def check_settings(settings: HttpSettings) -> None:
    """Refuses combinations that no field can see alone.

    Raises:
        ConfigError: SETTING_INVALID: the room for all bodies is smaller than one, a port that is shared is any, or the
            key for calls to the gateway is no file. SETTING_MISSING: clients are to show certificates without TLS.
    """
    calls_by_tls = settings.tls_ca_file is not None and not is_loopback(settings.gateway_address)
    if calls_by_tls and settings.tls_key_file is not None and "://" in str(settings.tls_key_file):
        raise ConfigError(
            "HEADRACE_TLS_KEY_FILE must be a file: the front reads it for its calls to the gateway",
            context={"variable": "HEADRACE_TLS_KEY_FILE"},
        )
    if settings.client_ca_file is not None and settings.tls_certificate_file is None:
        raise ConfigError(
            f"HEADRACE_TLS_CERTIFICATE_FILE must be set: {settings.variable('client_ca_file')} demands certificates of "
            "clients, which takes TLS",
            entry=catalogue.SETTING_MISSING,
            context={"variable": "HEADRACE_TLS_CERTIFICATE_FILE"},
        )
    if settings.bodies_bytes_max < settings.body_bytes_max:
        variable = settings.variable("bodies_bytes_max")
        raise ConfigError(
            f"{variable} must be at least {settings.variable('body_bytes_max')}", context={"variable": variable}
        )
    if settings.share_port and parse_address(settings.address)[1] == 0:
        variable = settings.variable("share_port")
        raise ConfigError(
            f"{variable} needs a port in {settings.variable('address')}, not 0", context={"variable": variable}
        )
