"""Settings of the registry service; shared ones come from `ServiceSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace_common.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry can be told. Its own fields are HEADRACE_REGISTRY_<FIELD>."""

    service: ClassVar[str] = "registry"

    grpc_address: str = Field(
        "127.0.0.1:0", description="host:port of the gRPC listener, for gateways and runners only; port 0 means any."
    )
    upload_dir: Path | None = Field(
        None, description="Folder for uploads while they are checked; empty means uploads/ in the state folder."
    )
    upload_bytes_max: int = Field(2 << 30, ge=1, le=1 << 40, description="Largest file accepted, bytes.")
    uploads_max: int = Field(16, ge=1, le=1_000, description="Uploads at once, a quarter of them for one tenant.")
    upload_idle_s: float = Field(60.0, gt=0, le=3_600, description="Seconds that an upload may send nothing.")
    upload_timeout_s: float = Field(3_600.0, gt=0, description="Deadline of an upload whose client sent none, seconds.")
    inspections_max: int = Field(2, ge=1, le=64, description="Files inspected at once; more wait for their turn.")
    inspection_timeout_s: float = Field(60.0, gt=0, le=3_600, description="Longest inspection of one file, seconds.")
    inspection_memory_bytes: int = Field(
        8 << 30, ge=256 << 20, description="Most address space of the process that inspects a file, bytes."
    )
    storage_timeout_s: float = Field(
        30.0, gt=0, le=600, description="Seconds that the object store gets for one segment."
    )
    feed_poll_s: float = Field(
        1.0, ge=0.05, le=10, description="Seconds between looks at the revision where no notification came."
    )
    feed_heartbeat_s: float = Field(1.0, ge=0.05, le=10, description="Seconds between signs of life on an idle feed.")
