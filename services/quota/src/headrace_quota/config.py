"""Settings of the quota service; shared ones come from `ServiceSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace_common.settings import ServiceSettings


class QuotaSettings(ServiceSettings):
    """What the quota service can be told. Its own fields are HEADRACE_QUOTA_<FIELD>."""

    service: ClassVar[str] = "quota"

    grpc_address: str = Field(
        "127.0.0.1:0", description="host:port of the gRPC listener, for gateways only; port 0 means any."
    )
    embedded_tenants: bool = Field(
        False, description="Whether the tenant community is made at start; default always is."
    )
    bootstrap_admin_key_file: Path | str | None = Field(
        None, description="Key that gets the role admin in the tenant default: a file (0600) or vault://path#key."
    )
    active_keys_max: int = Field(1_000, ge=1, le=1_000_000, description="Most keys that work at once in one tenant.")
    dead_keys_shown_s: float = Field(
        2_592_000.0,
        ge=0,
        description="Seconds for which revoked and expired keys stay in feed snapshots (30 days).",
    )
    feed_poll_s: float = Field(
        1.0, ge=0.05, le=10, description="Seconds between looks at the revision where no notification came."
    )
    feed_heartbeat_s: float = Field(1.0, ge=0.05, le=10, description="Seconds between signs of life on an idle feed.")
    lease_expire_s: float = Field(
        300.0,
        ge=2,
        le=3_600,
        description="Seconds for which a gateway that reports no more keeps its share, slices of calendar quotas and "
        "its places for calls under way.",
    )
    ledger_retention_days: int = Field(
        400, ge=1, le=4_000, description="Days for which rows of the ledger and events of runners are kept."
    )
