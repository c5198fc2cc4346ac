"""What gateways say of themselves in their metrics: each has a port of its own for them, also where they share one."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.member import Member

_RUNNERS = "headrace_mesh_runners"
_TIMEOUT_S = 5.0
_POLL_S = 0.05


async def until_joined(gateways: Sequence[Member], *, runners: int, within_s: float) -> None:
    """Wait until every gateway has a session with so many runners.

    Raises:
        MeshError: one of them has not in time.
    """
    try:
        async with asyncio.timeout(within_s):
            for gateway in gateways:
                while True:
                    if await _joined(gateway.endpoints.metrics) == runners:
                        break
                    await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise MeshError(f"not every gateway has its {runners} runners after {within_s:g} s") from None


async def _joined(metrics: str | None) -> int | None:
    """Runners of the gateway whose metrics are at this URL; None while it doesn't answer."""
    if metrics is None:
        return None
    try:
        page = await asyncio.to_thread(_read, metrics)
    except OSError:
        return None
    found = [line.partition(" ")[2] for line in page.splitlines() if line.startswith(f"{_RUNNERS} ")]
    return int(float(found[0])) if found else None


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - a loopback URL of our own process
        return response.read().decode()
