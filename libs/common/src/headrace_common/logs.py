"""Structured logs on standard error: JSON for machines, plain text for a terminal, never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

_SECRET_NAMES = re.compile(
    r"(?:^|[_.-])(?:api_?key|authorization|password|passwd|secret|token|credential|private_?key|jwk|ticket|cookie|"
    r"principal_token|x-api-key|x-headrace-principal)(?:$|[_.-](?!id|file|prefix|count))",
    re.IGNORECASE,
)
_SECRET_TEXTS = (
    (re.compile(r"\bhr_([A-Za-z0-9]{8})_[A-Za-z0-9]{16,}"), r"hr_\1_***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(password|secret_?access_?key|token)=[^\s&;]+"), r"\1=***"),
)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

EventDict = MutableMapping[str, Any]


def redact_text(text: str) -> str:
    """The text with API keys, tokens, bearer values and URL passwords masked."""
    for pattern, mask in _SECRET_TEXTS:
        text = pattern.sub(mask, text)
    return text


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: masks values under secret names, and secrets inside any text, however deep."""
    for key, value in event.items():
        event[key] = "***" if value and _SECRET_NAMES.search(key) else _redacted(value, depth=0)
    return event


def configure_logs(*, service: str, level: str = "info", fmt: str = "json", stream: TextIO | None = None) -> None:
    """Sends structlog and the standard library's loggers to one stream in one form.

    Every line has `timestamp` (UTC), `level`, `service`, `event`, and what is bound to the context: `request_id`,
    `tenant_id`, `trace_id`.
    """
    output = stream if stream is not None else sys.stderr
    threshold = _LEVELS[level]

    def add_service(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    if fmt == "json":
        rendered: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendered = [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=output.isatty()),
        ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=output),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.INFO))
    for noisy in ("alembic", "psycopg.pool", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))


def bind_call(*, request_id: str, tenant_id: str | None = None, trace_id: str | None = None) -> None:
    """Binds the ids of a call to the current task's context; absent ones stay away."""
    structlog.contextvars.bind_contextvars(request_id=request_id)
    if tenant_id is not None:
        structlog.contextvars.bind_contextvars(tenant_id=tenant_id)
    if trace_id is not None:
        structlog.contextvars.bind_contextvars(trace_id=trace_id)


def _redacted(value: Any, *, depth: int) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if depth >= 4:
        return value
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        return {
            key: "***" if item and _SECRET_NAMES.search(str(key)) else _redacted(item, depth=depth + 1)
            for key, item in items.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(part, depth=depth + 1) for part in cast("list[Any]", value)]
    return value
