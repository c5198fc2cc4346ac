"""Asks a model's process by HTTP on its socket, one connection for each request: closing it stops the work for it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from headrace_runner.backends.llamacpp.events import EventReader, StreamMalformed
from headrace_runner.backends.llamacpp.lost import process_lost, took_too_long
from headrace_runner.backends.llamacpp.process import ModelProcess

Body = Mapping[str, Any]

# What is asked for in one piece may be as much as a batch of embeddings.
_ANSWER_MAX_S = 600.0
# Another run of the process has another key, and one that is loading or leaving answers nobody.
_OTHER_RUN = (401, 503)


class Refused(Exception):
    """llama.cpp does not do what it was asked for.

    Attributes:
        status: Of HTTP.
        kind: llama.cpp's own word, for example `exceed_context_size_error`. Its text may have parts of the request.
    """

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        self.status = status
        self.kind = str(error.get("type", ""))
        super().__init__(f"{status} {self.kind}")


class ModelClient:
    """Asks one process. Bound to no event loop."""

    def __init__(self, *, process: ModelProcess) -> None:
        self._process = process

    def renew(self) -> None:
        """Has the process started again, as it doesn't end what it does."""
        self._process.renew()

    async def ask(self, method: str, path: str, body: Body | None = None, *, timeout_s: float = _ANSWER_MAX_S) -> Any:
        """The answer to a request that has one.

        Raises:
            Refused: llama.cpp answered with an error.
            InferenceTimeout: EXECUTION_TIMEOUT (DEADLINE_EXCEEDED): it did not answer in time.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        try:
            async with self._request(method, path, body, aiohttp.ClientTimeout(total=timeout_s)) as response:
                return await _document(response)
        except TimeoutError:
            raise took_too_long(timeout_s) from None

    @asynccontextmanager
    async def stream(self, path: str, body: Body) -> AsyncGenerator[AsyncGenerator[dict[str, Any], None]]:
        """The events that answer a request. Leaving the context stops it.

        Raises:
            Refused: llama.cpp answered with an error, or ended the stream with one.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        # However long nothing comes: others' prompts may be computed first. A process that hangs is ended.
        async with self._request("POST", path, body, aiohttp.ClientTimeout()) as response:
            events = _events(response)
            try:
                yield events
            finally:
                response.close()
                await events.aclose()

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Body | None, limits: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        endpoint = self._process.endpoint()
        connector = aiohttp.UnixConnector(path=endpoint.socket, force_close=True)
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {"Authorization": f"Bearer {endpoint.key}", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=limits
                ) as session,
                session.request(method, f"http://model{path}", data=data, headers=headers) as response,
            ):
                if response.status in _OTHER_RUN:
                    raise process_lost()
                if response.status != 200:
                    raise Refused(response.status, _error_of(await _document(response)))
                yield response
        except (aiohttp.ClientError, ConnectionError, StreamMalformed) as error:
            if isinstance(error, TimeoutError):
                raise
            raise process_lost() from None


async def _document(response: aiohttp.ClientResponse) -> Any:
    try:
        return await response.json(content_type=None)
    except ValueError:
        raise process_lost() from None


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    reader = EventReader()
    while data := await response.content.readany():
        for event in reader.feed(data):
            if "error" in event:
                raise Refused(500, _error_of(event))
            yield event


def _error_of(answer: Any) -> Mapping[str, Any]:
    error: Any = cast("dict[str, Any]", answer).get("error") if isinstance(answer, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}
