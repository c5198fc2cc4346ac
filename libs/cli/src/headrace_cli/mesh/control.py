"""The supervisor's socket: `headrace restart` asks here. One JSON document a line, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.rolling_restart import RollingRestart
from headrace_common.clock import Clock

# A socket's path is stored in so few bytes on every system that we know.
_PATH_BYTES_MAX = 100


class Control:
    """Takes requests of other commands for as long as the mesh lives.

    A request goes on when the command that asked has gone. The socket is in a folder that only its owner may enter.

    Args:
        path: Where to listen; elsewhere, when it is longer than a socket's path may be.
    """

    def __init__(self, *, path: Path, restart: RollingRestart, clock: Clock) -> None:
        self._restart = restart
        self._clock = clock
        self._own_folder: Path | None = None
        if len(os.fsencode(path)) > _PATH_BYTES_MAX:
            self._own_folder = Path(tempfile.mkdtemp(prefix="headrace-"))
            path = self._own_folder / path.name
        self.path = path

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Listen while the block lasts; requests that are under way at its end are dropped."""
        answering: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._answer(reader, writer))
            answering.add(task)
            task.add_done_callback(answering.discard)

        server = await asyncio.start_unix_server(connected, self.path)
        try:
            yield
        finally:
            server.close()
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            self.path.unlink(missing_ok=True)
            if self._own_folder is not None:
                shutil.rmtree(self._own_folder, ignore_errors=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(**words: object) -> None:
            # Whoever asked may have gone.
            with contextlib.suppress(OSError):
                writer.write(json.dumps(words).encode() + b"\n")

        try:
            wanted = _wanted(await reader.readline())
            began_at = self._clock.monotonic()
            async for name, back in self._restart.run(wanted):
                if back:
                    say(restarted=name, took_s=round(self._clock.monotonic() - began_at, 3))
                else:
                    began_at = self._clock.monotonic()
                    say(restarting=name)
            say(done=True)
        except MeshError as error:
            say(failed=str(error))
        except OSError:
            return
        finally:
            writer.close()


def _wanted(line: bytes) -> list[str]:
    """The names in a request.

    Raises:
        MeshError: it is none that this version knows.
    """
    try:
        request = cast("dict[str, Any]", json.loads(line))
        return [str(name) for name in request["restart"]]
    except (ValueError, KeyError, TypeError):
        raise MeshError("this mesh does not understand the request; is it of another version?") from None
