"""One connection to a mesh: endpoint, credential, deadlines, and failures restored from the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from headrace_common.rpc_status import STATUS_DETAILS_KEY, from_rpc_error

_T = TypeVar("_T")

_MESSAGE_BYTES_MAX = 64 << 20
# Headers and field tags around the largest tensor that a gateway accepts.
_SLACK_BYTES = 1 << 16
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX + _SLACK_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX + _SLACK_BYTES),
    ("grpc.primary_user_agent", "headrace-cli"),
]


class UnreachableError(Exception):
    """Nobody answers at the endpoint."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"no mesh answers at {endpoint}")
        self.endpoint = endpoint


class Connection:
    """A channel with a credential. Blocking; `close` from another thread ends its calls."""

    def __init__(self, *, endpoint: str, api_key: str, timeout_s: float = 30.0) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._metadata = (("x-api-key", api_key),)
        self.channel = grpc.insecure_channel(endpoint, options=_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and end its calls."""
        self.channel.close()

    def call(self, method: Callable[..., _T], request: object, *, timeout_s: float | None = None) -> _T:
        """Make a unary or client-streaming call of a generated stub.

        Raises:
            HeadraceError: the mesh refused it; the type is restored from the status.
            UnreachableError: nobody answers.
        """
        try:
            return method(request, timeout=timeout_s or self.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._restored(error) from None

    def pages(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Make a listing call for page after page; `request` is changed on the way."""
        while True:
            page = self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _restored(self, error: Any) -> Exception:
        detailed = any(key == STATUS_DETAILS_KEY for key, _ in error.trailing_metadata() or ())
        if error.code() == grpc.StatusCode.UNAVAILABLE and not detailed:
            return UnreachableError(self.endpoint)
        return from_rpc_error(error)


def read_api_key(value: str) -> str:
    """The key itself, or the content of the file named by `@path`.

    Raises:
        ConfigError: SECRET_UNAVAILABLE: the file can't be read.
    """
    if not value.startswith("@"):
        return value
    # Brings the client of a secret store along, which no other command needs.
    from headrace_common.secrets import read_secret_file

    return read_secret_file(Path(value[1:]))
