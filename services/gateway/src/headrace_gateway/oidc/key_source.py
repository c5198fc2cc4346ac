"""Reads what an issuer publishes, in the background: now and then, and when a token has a key that is not known."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import structlog

from headrace_common.clock import Clock
from headrace_gateway.oidc.issuer_keys import DOCUMENT_BYTES_MAX, IssuerKeys

_FETCH_TIMEOUT_S = 10.0
ASKED_EVERY_S = 10.0
"""Unknown keys have the issuer asked no more often than this: they cost their senders nothing."""
_FIRST_RETRY_S = 1.0


class KeySource:
    """Keeps an issuer's keys current. What can't be read leaves those that are known.

    Args:
        location: URL or path of a JWK set.
        refresh_s: Pause between readings.
    """

    def __init__(self, *, location: str, refresh_s: float, clock: Clock) -> None:
        self._location = location
        self._refresh_s = refresh_s
        self._clock = clock
        self._asked = asyncio.Event()
        self._asked_at = -ASKED_EVERY_S
        self._read = False
        self._document: bytes = b""
        self._log = structlog.stdlib.get_logger("oidc")

    def ask(self) -> bool:
        """Has the keys read at once, unless that was asked a moment ago and is done; whether they are going to be."""
        if self._asked.is_set():
            return True
        now = self._clock.monotonic()
        if now - self._asked_at < ASKED_EVERY_S:
            return False
        self._asked_at = now
        self._asked.set()
        return True

    async def run(self, use: Callable[[IssuerKeys], None]) -> None:
        """Reads until cancelled; `use` takes the keys whenever they have changed."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self._refresh(use)
                pause_s, retry_s = self._refresh_s, _FIRST_RETRY_S
            except (OSError, ValueError, HTTPException) as error:
                self._log.warning("the issuer's keys can't be read; the known ones stay", error=str(error)[:300])
                pause_s = retry_s if not self._read else min(self._refresh_s, 2 * ASKED_EVERY_S)
                retry_s = min(2 * retry_s, ASKED_EVERY_S)
            self._asked.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._asked.wait()
            except TimeoutError:
                pass

    async def _refresh(self, use: Callable[[IssuerKeys], None]) -> None:
        document = await asyncio.to_thread(_read, self._location)
        if document != self._document:
            keys = IssuerKeys.parsed(document)
            use(keys)
            self._document, self._read = document, True
            self._log.info("the issuer's keys are read", keys=len(keys))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Whoever sends the request elsewhere would choose the keys."""


def _read(location: str) -> bytes:
    if "://" not in location:
        with Path(location).open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1)
    opener = urllib.request.build_opener(_NoRedirects)
    # The settings allow https, and http to this machine.
    with opener.open(location, timeout=_FETCH_TIMEOUT_S) as answer:
        document: bytes = answer.read(DOCUMENT_BYTES_MAX + 1)
        return document
