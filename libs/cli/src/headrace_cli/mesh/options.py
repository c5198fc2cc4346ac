"""What the person who starts a mesh can choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_GRPC_PORT = 8081
DEFAULT_HTTP_PORT = 8080
FIRST_METRICS_PORT = 9464


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """The flags of `headrace up`. A port that is None was not asked for, 0 means any."""

    state_dir: Path
    grpc_port: int | None = None
    http_port: int | None = None
    http: bool = True
    runners: int = 2
    gateways: int = 1
    samples: bool = True
    # Between the services; clients need none.
    tls: bool = False
    ready_file: Path | None = None
    env: str | None = None
    # Servers of the person's own, instead of the embedded ones.
    postgres_url: str | None = None
    redis_url: str | None = None
    storage_url: str | None = None
