"""Gives the calls of sequences their turn, and forgets sequences in time. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_runner.execution.sequences import LOOK_S, Sequences, SequenceStep
from headrace_runner.tensors.infer_request import InferRequest
from headrace_runner.tensors.sequence_parameters import SequenceUse

Item = TypeVar("Item")


class SequenceTurns(Generic[Item]):
    """The sequences of a replica, with a clock and a timer.

    Args:
        sequences: What is kept.
        proceed: Called with each item that had to wait: whose turn has come, or whose sequence isn't there any more.
    """

    def __init__(
        self,
        *,
        sequences: Sequences[Item],
        clock: Clock,
        proceed: Callable[[Item, SequenceStep | HeadraceError], None],
    ) -> None:
        self._sequences = sequences
        self._clock = clock
        self._proceed = proceed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def any(self) -> bool:
        """Whether there is any sequence."""
        return self._sequences.any

    def enter(self, item: Item, request: InferRequest) -> SequenceStep | None:
        """Takes a call of a sequence in; None when `proceed` will be called.

        Raises:
            HeadraceError: What `Sequences.enter` raises.
        """
        sent = frozenset(tensor.name for tensor in request.inputs)
        step = self._sequences.enter(item, _use(request), sent, self._clock.monotonic())
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)
        return step

    def commit(self, item: Item, request: InferRequest) -> HeadraceError | None:
        """The call was computed and is about to be answered: advances its sequence, or says why that can't be."""
        try:
            self._sequences.commit(item, _use(request))
        except HeadraceError as failure:
            return failure
        return None

    def leave(self, item: Item, request: InferRequest) -> None:
        """The call has ended in some way."""
        for turn in self._sequences.leave(item, _use(request), self._clock.monotonic()):
            self._proceed(turn.item, turn.step)

    def close(self) -> None:
        """Forgets everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sequences.clear()

    def _look(self) -> None:
        self._sequences.look(self._clock.monotonic())
        self._timer = self._loop.call_later(LOOK_S, self._look) if self._sequences.any else None


def _use(request: InferRequest) -> SequenceUse:
    assert request.sequence is not None, "only calls of sequences have a turn"
    return request.sequence
