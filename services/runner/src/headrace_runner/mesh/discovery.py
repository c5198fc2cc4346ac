"""Which gateway addresses to dial."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

_DNS = "dns:///"


async def resolve(targets: Sequence[str]) -> dict[str, str]:
    """Turns configured targets into addresses `host:port`, one for every gateway process.

    Each with the name that was looked up, by which the gateway's certificate knows it; empty where none was.

    Args:
        targets: `host:port`, taken as it is, or `dns:///host:port`, which stands for every address of the name, as a
            headless Kubernetes service has one per pod.

    Raises:
        OSError: A name can't be resolved.
    """
    addresses: dict[str, str] = {}
    for target in targets:
        if not target.startswith(_DNS):
            addresses[target] = ""
            continue
        host, _, port = target.removeprefix(_DNS).rpartition(":")
        loop = asyncio.get_running_loop()
        for family, _, _, _, address in await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM):
            ip = f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])
            addresses.setdefault(f"{ip}:{port}", host)
    return addresses
