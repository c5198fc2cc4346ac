"""A file of a model on its way here: goes on where it broke, appears only when it is whole."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from headrace_client import failures, rpcs
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.errors import InternalError, ModelError, RetryableError
from headrace_client.timeouts import checked_timeout_s
from headrace_client.transport import Transport
from headrace_client.upload import Progress


class Download:
    """One download.

    Args:
        transport: The connection.
        request: What to fetch; its offset is this object's affair.
        to: Where the file shall be: a folder, or the path of a file.
        progress: Hears the bytes received and those in all.
    """

    def __init__(
        self, transport: Transport, request: models_pb2.DownloadVersionRequest, *, to: Path, progress: Progress | None
    ) -> None:
        self._transport = transport
        self._request = request
        self._to = to
        self._progress = progress
        self._file: models_pb2.ArtifactFile | None = None
        self._digest = hashlib.sha256()
        self._received = 0

    async def run(self, timeout_s: float) -> Path:
        """Fetch, check, and put in place.

        Raises:
            ModelError: there is no such file, or what came has another digest.
            HeadraceError: the mesh can't be reached, for too long or too often.
            OSError: the file can't be written.
        """
        deadline_s = time.monotonic() + checked_timeout_s(timeout_s)
        part = _part_in(self._to)
        try:
            with await asyncio.to_thread(part.open, "xb") as content:
                await self._fetch_with_retries(content, deadline_s)
            path = self._checked_path()
            await asyncio.to_thread(part.replace, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    async def _fetch_with_retries(self, content: IO[bytes], deadline_s: float) -> None:
        attempts = self._transport.attempts(deadline_s)
        while True:
            try:
                await self._fetch(content, deadline_s - time.monotonic())
            except RetryableError as failure:
                pause_s = attempts.pause_after(failure, now_s=time.monotonic())
                if pause_s is None:
                    raise
                await self._transport.pause(pause_s)
            else:
                attempts.succeeded()
                return

    async def _fetch(self, content: IO[bytes], left_s: float) -> None:
        self._request.offset = self._received
        async with aclosing(
            self._transport.responses(rpcs.DOWNLOAD_VERSION, self._request, timeout_s=left_s)
        ) as messages:
            async for message in messages:
                if message.HasField("file"):
                    self._take_file(message.file)
                await asyncio.to_thread(content.write, message.chunk)
                self._digest.update(message.chunk)
                self._received += len(message.chunk)
                if self._progress is not None and self._file is not None:
                    self._progress(self._received, self._file.size_bytes)

    def _take_file(self, file: models_pb2.ArtifactFile) -> None:
        if self._file is not None and file.sha256 != self._file.sha256:
            raise _other_bytes(self._file.sha256, file.sha256)
        self._file = file

    def _checked_path(self) -> Path:
        file = self._file
        if file is None:
            raise InternalError("the mesh answered a download without a file")
        if (actual := self._digest.hexdigest()) != file.sha256:
            raise _other_bytes(file.sha256, actual)
        if not self._to.is_dir():
            return self._to
        # Only the last part of a name that came from elsewhere.
        name = PurePosixPath(file.path).name
        if name in {"", ".", ".."}:
            raise InternalError("the mesh sent a file without a name")
        return self._to / name


def _part_in(to: Path) -> Path:
    """A name beside the file to be: only there it can be put in place at once."""
    return (to if to.is_dir() else to.parent) / f".headrace-{uuid4().hex}.part"


def _other_bytes(expected: str, actual: str) -> ModelError:
    return ModelError(
        f"the received bytes have the SHA-256 {actual}, not {expected}",
        failures.MODEL_FILE_DIGEST_MISMATCH,
        context={"expected": expected, "actual": actual},
    )
