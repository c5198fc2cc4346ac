"""A command on a terminal of its own, as a person has it: keys go through the line discipline, signals come of it."""

from __future__ import annotations

import asyncio
import os
import pty
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from support.eventually import eventually

CTRL_C, CTRL_D = b"\x03", b"\x04"

# Opening it makes it the session's terminal, whose Ctrl-C is a signal.
_ON_TERMINAL = 'exec "$@" <"$0" >"$0" 2>"$0"'


class Terminal:
    """What a person sees and does.

    Attributes:
        shown: All that has been shown, what was typed included.
    """

    def __init__(self, control: int, process: asyncio.subprocess.Process) -> None:
        self._control = control
        self._process = process
        self._seen_bytes = 0
        self.shown = bytearray()

    def take(self) -> None:
        """Reads what is there."""
        try:
            self.shown += os.read(self._control, 1 << 16)
        except OSError:  # Nobody has the other side open any more.
            asyncio.get_running_loop().remove_reader(self._control)

    async def types(self, keys: str | bytes) -> None:
        """Types, without waiting for anything."""
        os.write(self._control, keys.encode() if isinstance(keys, str) else keys)

    async def shows(self, text: str) -> None:
        """Waits for a text after the one that was waited for last.

        Raises:
            AssertionError: it doesn't come.
        """
        wanted = text.encode()
        try:
            await eventually(lambda: wanted in self.shown[self._seen_bytes :])
        except TimeoutError:
            raise AssertionError((text, bytes(self.shown[self._seen_bytes :]))) from None
        self._seen_bytes = self.shown.index(wanted, self._seen_bytes) + len(wanted)

    async def status(self) -> int:
        """The exit status, once it has ended."""
        async with asyncio.timeout(30):
            return await self._process.wait()


@asynccontextmanager
async def on_terminal(command: Sequence[str], environment: Mapping[str, str]) -> AsyncGenerator[Terminal]:
    """Runs a command on a terminal; it is killed at the end of the context."""
    control, other = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", _ON_TERMINAL, os.ttyname(other), *command),
        env={**environment, "TERM": "dumb"},
        start_new_session=True,
    )
    terminal = Terminal(control, process)
    asyncio.get_running_loop().add_reader(control, terminal.take)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(control)
        os.close(other)
        os.close(control)
