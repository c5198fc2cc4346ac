"""One line for each call of a busy method or HTTP request, at a cost that these can bear."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from headrace_common.logs import redact_text

_FLUSH_S = 0.1
_BUFFERED_LINES_MAX = 512
_EVENT_WIDTH = 30


class AccessLog:
    """Writes the lines that `structlog` would write for finished calls, gathered into few writes. Event loop only.

    What goes into a line has been checked by whoever admitted the call (names, identifiers, numbers), so that nothing
    needs escaping but what a client may choose: its request id, which is looked through for secrets.

    Args:
        service: Name of the service.
        fmt: `json` or `console`, as for all other lines.
        stream: Where lines go; standard error by default.
    """

    def __init__(self, *, service: str, fmt: str, stream: TextIO | None = None) -> None:
        self._service = service
        self._json = fmt == "json"
        self._stream = stream if stream is not None else sys.stderr
        self._lines: list[str] = []
        self._second = 0
        self._second_text = ""
        self._flush_due = False

    def record(
        self,
        *,
        method: str,
        grpc_code: str,
        reason: str,
        duration_s: float,
        tenant_id: str,
        key_id: str,
        request_id: str,
        request_bytes: int,
    ) -> None:
        """Takes note of a finished call; the line is written within a tenth of a second."""
        request_id = _shown(request_id)
        duration_ms = f"{duration_s * 1000:.3f}"
        if self._json:
            said = f'"{reason}"' if reason else "null"
            line = (
                f'{{"method": "{method}", "grpc_code": "{grpc_code}", "reason": {said}, "duration_ms": {duration_ms}, '
                f'"tenant_id": "{tenant_id}", "key_id": "{key_id}", "request_id": "{request_id}", '
                f'"bytes": {request_bytes}, "event": "call", "level": "info", "timestamp": "{self._now()}", '
                f'"service": "{self._service}"}}\n'
            )
        else:
            line = (
                f"{self._now()} [info     ] {'call':<{_EVENT_WIDTH}} bytes={request_bytes} duration_ms={duration_ms} "
                f"grpc_code={grpc_code} key_id={key_id} method={method} reason={reason or None} "
                f"request_id={request_id} service={self._service} tenant_id={tenant_id}\n"
            )
        self._append(line)

    def request(
        self,
        *,
        method: str,
        route: str,
        status: int,
        duration_s: float,
        request_id: str,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """Takes note of an HTTP request that ended; `route` is the pattern of its path, the bytes are its bodies'."""
        fields: Mapping[str, str | int | float] = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(duration_s * 1000, 3),
            "request_id": _shown(request_id),
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
        }
        if self._json:
            told = {**fields, "event": "request", "level": "info", "timestamp": self._now(), "service": self._service}
            self._append(json.dumps(told) + "\n")
        else:
            said = " ".join(f"{name}={value}" for name, value in sorted({**fields, "service": self._service}.items()))
            self._append(f"{self._now()} [info     ] {'request':<{_EVENT_WIDTH}} {said}\n")

    def flush(self) -> None:
        """Writes what has gathered. Whoever stops the process calls it last."""
        lines, self._lines = self._lines, []
        if lines:
            # A call that was answered must not fail for its line.
            with suppress(OSError):
                self._stream.write("".join(lines))
                self._stream.flush()

    def _append(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= _BUFFERED_LINES_MAX:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self.flush()

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1e6):06d}Z"


def _shown(request_id: str) -> str:
    return redact_text(request_id) if "hr_" in request_id or "eyJ" in request_id else request_id
