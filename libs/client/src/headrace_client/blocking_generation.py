"""What a language model makes of a prompt, as it comes: for callers who block."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import suppress
from types import TracebackType
from typing import Self

from headrace_client.contracts.headrace.gateway.v1 import generation_pb2
from headrace_client.errors import CallCancelled
from headrace_client.generation import Delta, Transcript
from headrace_client.loop_thread import LoopThread
from headrace_client.tried_stream import TriedStream


class BlockingGeneration(Transcript):
    """A call that generates; made by `Client.generate`. As `Generation`, with plain loops and `with`.

    One thread at a time iterates; any thread may `close()` it.

        with client.generate("smollm2", "Once upon a time", max_tokens=64) as generation:
            for delta in generation:
                print(delta.text, end="", flush=True)
        print(generation.usage)

    Raises:
        CallCancelled: When iterated: it was closed before its end.
        HeadraceError: When iterated: the failure, typed. What came before it stays in the attributes.
    """

    def __init__(self, *, stream: TriedStream[generation_pb2.GenerateResponse], loop: LoopThread) -> None:
        super().__init__()
        self._stream = stream
        self._loop = loop
        self._due: deque[Delta] = deque()

    def __next__(self) -> Delta:
        while not self._due:
            message = self._loop.run(self._stream.read())
            if message is None:
                raise StopIteration
            self._due.extend(self.add(message))
        return self._due.popleft()

    def __iter__(self) -> Generator[Delta, None, None]:
        try:
            while True:
                try:
                    delta = next(self)
                except StopIteration:
                    return
                yield delta
        finally:
            self.close()

    def read(self) -> str:
        """Waits for the end; gives the first completion's whole text."""
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Ends the call, also where it runs; does nothing when it is over, or the client is closed."""
        with suppress(CallCancelled):
            self._loop.call(self._stream.cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
