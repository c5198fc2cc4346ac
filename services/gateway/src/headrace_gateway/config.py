"""What a gateway can be told."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from headrace_common.addresses import is_loopback
from headrace_common.catalogue import SETTING_MISSING
from headrace_common.errors import ConfigError
from headrace_common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Settings of one gateway process; the shared ones are in `ServiceSettings`."""

    service: ClassVar[str] = "gateway"

    name: str = Field("gateway-0", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description="Name in logs and metrics.")
    grpc_address: str = Field("127.0.0.1:8081", description="host:port of the public listener; port 0 means any.")
    mesh_address: str = Field("127.0.0.1:0", description="host:port that runners dial; port 0 means any.")
    quota_address: str = Field(min_length=1, description="host:port of the quota service.")
    registry_address: str = Field(min_length=1, description="host:port of the registry service.")
    community: bool = Field(
        False, description="Accept the well-known key 'community'. Only where every listener is loopback."
    )
    reflection: Literal["open", "keyed", "off"] = Field(
        "keyed", description="Who may list the public services: anyone, callers with a key, or nobody."
    )
    load_waiting_max: int = Field(
        4_096, ge=2, description="Calls that may wait for a model to be loaded, at most half of them of one tenant."
    )
    stream_calls_max: int = Field(
        16_384, ge=1, description="Calls in flight of all streams and batches; more are refused one by one."
    )
    request_bytes_max: int = Field(
        512 << 20, ge=1 << 16, description="Bytes of all inference requests held at once; more are refused."
    )
    result_bytes_max: int = Field(
        512 << 20, ge=1 << 16, description="Room for large results on their way from all runners, bytes."
    )
    principal_ttl_s: float = Field(
        60.0, ge=5, le=300, description="Life of the signed principal that upstream services get, seconds."
    )
    transfer_timeout_s: float = Field(
        3_600.0, gt=0, description="Deadline of an upload or download whose client sent none, seconds."
    )
    forward_margin_s: float = Field(
        0.02, ge=0, le=5, description="Taken off a deadline when a call is passed on, so that we answer first, seconds."
    )


def check_settings(settings: GatewaySettings) -> None:
    """Refuses combinations that no field can see alone.

    Raises:
        ConfigError: SETTING_INVALID or SETTING_MISSING: the key `community` is on and a listener is not loopback; the
            mesh listener can be reached by other machines and runners need neither token nor certificate; there is no
            key to sign principals with; the room for results is smaller than one message.
    """
    if settings.community:
        for field in ("grpc_address", "mesh_address", "metrics_address"):
            address: str = getattr(settings, field)
            if not is_loopback(address):
                raise ConfigError(
                    f"{settings.variable('community')} is true, so every listener must be loopback, but "
                    f"{settings.variable(field)} is {address}; use 127.0.0.1, or switch the community key off",
                    context={"variable": settings.variable("community")},
                )
    guarded = settings.join_token_file is not None or settings.tls_ca_file is not None
    if not guarded and not is_loopback(settings.mesh_address):
        raise _missing("join_token_file", f"because {settings.variable('mesh_address')} is not loopback")
    if settings.principal_key_file is None:
        raise _missing("principal_key_file", "to sign the principals that other services get")
    for field in ("request_bytes_max", "result_bytes_max"):
        if getattr(settings, field) < settings.message_bytes_max:
            raise ConfigError(
                f"{settings.variable(field)} must be at least {settings.variable('message_bytes_max')}",
                context={"variable": settings.variable(field)},
            )


def _missing(field: str, why: str) -> ConfigError:
    variable = GatewaySettings.variable(field)
    return ConfigError(f"{variable} must be set, {why}", entry=SETTING_MISSING, context={"variable": variable})
