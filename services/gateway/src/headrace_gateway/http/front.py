"""What all routes of one HTTP front share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from headrace_common.access_log import AccessLog
from headrace_gateway.http.bodies import Bodies
from headrace_gateway.http.config import HttpSettings
from headrace_gateway.http.http_metrics import HttpMetrics
from headrace_gateway.http.server_sent_events import OpenStreams
from headrace_gateway.http.sessions import Sessions
from headrace_gateway.http.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One HTTP front.

    Attributes:
        settings: What it was told.
        sessions: The calls to its gateway.
        bodies: The requests' bodies.
        uploads: Room for uploads of models.
        streams: Its streams of events.
        metrics: What it counts.
        access_log: Gets a line for each request; None writes none.
        registry: All metrics of the process.
        own_headers: Metadata that it adds to every call.
        draining: Set when the front is to end: it is not ready any more.
    """

    settings: HttpSettings
    sessions: Sessions
    bodies: Bodies
    uploads: Uploads
    streams: OpenStreams
    metrics: HttpMetrics
    registry: CollectorRegistry
    access_log: AccessLog | None
    own_headers: tuple[tuple[str, str], ...] = ()
    draining: asyncio.Event = field(default_factory=asyncio.Event)
