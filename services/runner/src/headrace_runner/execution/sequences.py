"""State that a replica keeps between the requests of a sequence, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, RouteError, RouteUnavailable, RunnerUnavailable
from headrace_runner.execution.sequence_counts import SequenceCounts
from headrace_runner.execution.sequence_policy import SequencePolicy, StateTensor
from headrace_runner.tensors.contents import as_bytes
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.sequence_parameters import SequenceUse

Item = TypeVar("Item")

LOOK_S = 0.5
"""How often `look` is to be called while there is any sequence, seconds."""
_SILENCE_MAX_S = 1.5
_LINE_MAX = 64

States = tuple[Array, ...]


class SequenceStep:
    """One request's part of its sequence: what it begins with and what it leaves.

    Made on the event loop, used by the thread that executes the request, committed on the event loop.

    Attributes:
        inputs: State that the request didn't bring itself.
        outputs: Names of all state outputs, to be computed whether they are wanted or not.
    """

    __slots__ = ("_states", "inputs", "left", "outputs")

    def __init__(self, states: Sequence[StateTensor], values: States, sent: Container[str]) -> None:
        self.inputs: Mapping[str, Array] = {
            state.input: value for state, value in zip(states, values, strict=True) if state.input not in sent
        }
        self.outputs = tuple(state.output for state in states)
        self._states = states
        self.left: States | None = None

    def computed(self, arrays: Mapping[str, Array]) -> None:
        """Takes what the model gave for the state outputs. Copies it, so call it off the event loop."""
        self.left = tuple(_kept(state, arrays[state.output]) for state in self._states)


class Turn(NamedTuple, Generic[Item]):
    """An item whose turn has come, or that has failed while it waited for it."""

    item: Item
    step: SequenceStep | HeadraceError


@dataclass(slots=True)
class _Request(Generic[Item]):
    item: Item
    use: SequenceUse
    sent: Container[str]
    step: SequenceStep | None = None


@dataclass(slots=True)
class _Line(Generic[Item]):
    """One sequence: its state, and its requests in the order of their arrival, the first of which has the turn."""

    values: States | None = None
    state_bytes: int = 0
    used_at: float = 0.0
    requests: deque[_Request[Item]] = field(default_factory=deque[_Request[Item]])


class Sequences(Generic[Item]):
    """The sequences of one replica. Pure: the caller says what time it is.

    Each item that enters leaves exactly once, by `leave`. Requests of one sequence have their turn one after another;
    only `commit` changes its state, so one that failed or was cancelled leaves it as it was.

    A process that stood still may have been ejected, and its sequences may live elsewhere by now: what it remembers
    from before is not to be trusted, and forgotten.

    Args:
        policy: The model's state and its bounds.
        counts: Kept current.
    """

    def __init__(self, *, policy: SequencePolicy, counts: SequenceCounts) -> None:
        self._policy = policy
        self._counts = counts
        # Those without a request are in the order of their last one; the first is the first to expire.
        self._lines: OrderedDict[int | str, _Line[Item]] = OrderedDict()
        self._looked_at = float("-inf")

    @property
    def any(self) -> bool:
        """Whether there is any sequence."""
        return bool(self._lines)

    def enter(self, item: Item, use: SequenceUse, sent: Container[str], now: float) -> SequenceStep | None:
        """Takes a request in.

        Args:
            item: The request, for the caller.
            use: Its sequence.
            sent: Names of the inputs that it has; a state among them is taken instead of the one that is kept.
            now: The time.

        Returns:
            Its step, when its turn is now; None when others of its sequence come first.

        Raises:
            RouteError: SEQUENCE_NOT_FOUND (FAILED_PRECONDITION).
            RouteUnavailable: SEQUENCE_LIMIT_REACHED (RESOURCE_EXHAUSTED).
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): too many requests of the sequence wait.
        """
        self.look(now)
        line = self._lines.get(use.id)
        if line is None:
            if not use.start:
                raise self._not_found(use)
            # Beginnings that wait for their first answer count, too.
            if len(self._lines) >= self._policy.live_max:
                self._counts.refused += 1
                raise self._limit(f"{self._policy.live_max} sequences", self._policy.live_max)
            line = self._lines[use.id] = _Line()
        elif len(line.requests) >= _LINE_MAX:
            raise RunnerUnavailable(
                f"{_LINE_MAX} requests of the sequence wait for each other",
                entry=catalogue.RUNNER_OVERLOADED,
                context={"model": self._policy.model, "limit": _LINE_MAX},
            )
        self._lines.move_to_end(use.id)
        request = _Request(item, use, sent)
        line.requests.append(request)
        if len(line.requests) > 1:
            return None
        return self._step(line, request)

    def commit(self, item: Item, use: SequenceUse) -> None:
        """The request has been computed and is about to be answered: its sequence goes on, or ends.

        Raises:
            RouteUnavailable: SEQUENCE_LIMIT_REACHED (RESOURCE_EXHAUSTED): the new state is too large for the memory
                that is left; the former one stays.
            RouteError: SEQUENCE_NOT_FOUND (FAILED_PRECONDITION): the sequence was forgotten meanwhile.
        """
        line = self._lines[use.id]
        assert line.requests[0].item is item, "it had the turn"
        step = line.requests[0].step
        if step is None or step.left is None:
            raise self._not_found(use)
        counts = self._counts
        if use.end:
            self._forget_state(line)
        else:
            values = step.left
            state_bytes = sum(map(_size, self._policy.states, values))
            if counts.state_bytes - line.state_bytes + state_bytes > self._policy.bytes_max:
                counts.refused += 1
                raise self._limit(f"{self._policy.bytes_max} bytes of state", self._policy.bytes_max)
            counts.live += line.values is None
            counts.state_bytes += state_bytes - line.state_bytes
            line.values, line.state_bytes = values, state_bytes
        counts.started += use.start
        counts.ended += use.end

    def leave(self, item: Item, use: SequenceUse, now: float) -> list[Turn[Item]]:
        """The request has ended in some way, or waits no more.

        Returns:
            Whose turn it is now: at most one that has a step, behind those whose sequence isn't there any more. Those
            have left.
        """
        line = self._lines.get(use.id)
        if line is None or not line.requests:
            return []
        had_turn = line.requests[0].item is item
        line.requests = deque(request for request in line.requests if request.item is not item)
        turns: list[Turn[Item]] = []
        while had_turn and line.requests:
            request = line.requests[0]
            if request.use.start or line.values is not None:
                turns.append(Turn(request.item, self._step(line, request)))
                break
            line.requests.popleft()
            turns.append(Turn(request.item, self._not_found(request.use)))
        if not line.requests:
            if line.values is None:
                del self._lines[use.id]
            else:
                line.used_at = now
                self._lines.move_to_end(use.id)
        return turns

    def look(self, now: float) -> None:
        """Forgets sequences that were idle for too long, and all of them after a standstill."""
        stood_still = now - self._looked_at > _SILENCE_MAX_S
        self._looked_at = now
        if stood_still:
            self._forget_all()
            return
        for name in self._idle_since(now - self._policy.idle_s):
            self._forget_state(self._lines.pop(name))
            self._counts.expired += 1

    def clear(self) -> None:
        """The replica leaves: nothing is counted for it any more."""
        for line in self._lines.values():
            self._forget_state(line)
        self._lines.clear()

    def _idle_since(self, time: float) -> list[int | str]:
        found: list[int | str] = []
        for name, line in self._lines.items():
            if not line.requests:
                if line.used_at > time:
                    break
                found.append(name)
        return found

    def _forget_all(self) -> None:
        for name, line in list(self._lines.items()):
            self._counts.lost += line.values is not None
            self._forget_state(line)
            if line.requests:
                line.requests[0].step = None
            else:
                del self._lines[name]

    def _step(self, line: _Line[Item], request: _Request[Item]) -> SequenceStep:
        states = self._policy.states
        values = line.values
        if request.use.start or values is None:
            values = tuple(state.initial for state in states)
        request.step = SequenceStep(states, values, request.sent)
        return request.step

    def _forget_state(self, line: _Line[Item]) -> None:
        if line.values is not None:
            self._counts.live -= 1
            self._counts.state_bytes -= line.state_bytes
            line.values, line.state_bytes = None, 0

    def _not_found(self, use: SequenceUse) -> RouteError:
        return RouteError(
            f"the sequence {use.id!r} of {self._policy.model} has no state here: it was never started, has ended, had "
            f"no request for {self._policy.idle_s:g} s, or was lost with its runner; start it with sequence_start",
            entry=catalogue.SEQUENCE_NOT_FOUND,
            context={"sequence_id": str(use.id)},
            field="parameters.sequence_id",
        )

    def _limit(self, what: str, limit: int) -> RouteUnavailable:
        return RouteUnavailable(
            f"{self._policy.model} keeps {what} at once and no more",
            entry=catalogue.SEQUENCE_LIMIT_REACHED,
            context={"model": self._policy.model, "limit": limit},
        )


def _kept(state: StateTensor, array: Array) -> Array:
    """The array as the next request takes it, which keeps no other memory alive."""
    if state.datatype == "BYTES":
        kept = array.copy()
        flat = kept.reshape(-1)
        for index, element in enumerate(flat):
            flat[index] = as_bytes(element)
        return kept
    return array if array.flags.owndata else array.copy()


def _size(state: StateTensor, array: Array) -> int:
    if state.datatype == "BYTES":
        return array.nbytes + sum(map(len, array.reshape(-1)))
    return array.nbytes
