"""What a client gets to see of a failed call: its status, its details, and whether they tell too much."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

_DETAILS = "grpc-status-details-bin"
_LEAKS = re.compile(
    r"onnxruntime|xllama|llguidance|ggml|grpc|traceback|psycopg|sqlalchemy|asyncio|obstore|pydantic|python|site-packages|\.venv|\.py\b"
    r"|/work|/tmp|/home|/usr|/var|\b[A-Za-z]+(Error|Exception)\b|<class|object at 0x"
    r"|\b(select|insert into|update|delete from|where|relation|headrace_[a-z]+)\b",
    re.IGNORECASE,
)
"""Names of libraries and of our own modules, paths, classes of exceptions, SQL."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A failed call.

    Attributes:
        reason: Of ErrorInfo; empty where the failure has no details, so is not of the catalogue.
        context: Metadata of ErrorInfo, `code` included.
        field: That BadRequest names; None without one.
        trailing: All trailing metadata but the request's id.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    context: Mapping[str, str]
    field: str | None
    trailing: tuple[tuple[str, str | bytes], ...]

    def leaks(self, *, asked_for: str = "") -> list[str]:
        """What of the message and of the trailing metadata is no text of ours.

        Args:
            asked_for: What the request itself said, and so may come back.
        """
        texts = [self.message, *(_readable(value) for _, value in self.trailing)]
        return [
            found[0] for text in texts for found in _LEAKS.finditer(text.replace(asked_for, "") if asked_for else text)
        ]


def refusal_of(call: Callable[[], object]) -> Refusal:
    """Makes a call that must fail; streams are read to their end."""
    with pytest.raises(grpc.RpcError) as caught:
        answer: Any = call()
        if hasattr(answer, "__next__"):
            deque(answer, maxlen=0)
    return refusal(caught.value)


def refusal(error: grpc.RpcError) -> Refusal:
    """What a stub raised, taken apart."""
    rpc: Any = error
    trailing = tuple((key, value) for key, value in rpc.trailing_metadata() or () if key != "x-request-id")
    info, field = error_details_pb2.ErrorInfo(), None
    status = status_pb2.Status.FromString(dict(trailing).get(_DETAILS, b""))
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if not detail.Unpack(info) and detail.Unpack(bad):
            field = bad.field_violations[0].field
    return Refusal(
        code=rpc.code(),
        message=rpc.details() or "",
        reason=info.reason,
        context=dict(info.metadata),
        field=field,
        trailing=trailing,
    )


def _readable(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
