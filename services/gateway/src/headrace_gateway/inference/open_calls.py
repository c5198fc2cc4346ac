"""The calls that a stream or a batch has open, with what each of them takes."""

from __future__ import annotations

from headrace_common.errors import HeadraceError
from headrace_common.rpc_runtime import AdmissionGate
from headrace_gateway.inference.call import Caller, Ended, InferenceCall
from headrace_gateway.inference.generation.answer_parts import Sink
from headrace_gateway.inference.handler import InferenceHandler


class OpenCalls:
    """Takes a place at the gate and counts the bytes of each call that begins, and gives both back once.

    A call stays open until `remove`, so that one that has ended can wait for its answer to be sent. One event loop.

    Args:
        gate: Bounds the calls in flight of all streams and batches.

    Attributes:
        held_bytes: Bytes of the requests that have not ended.
    """

    def __init__(self, *, inference: InferenceHandler, gate: AdmissionGate) -> None:
        self.held_bytes = 0
        self._inference = inference
        self._gate = gate
        # None stands for one that has not begun, and never may.
        self._calls: dict[int, InferenceCall | None] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, tag: int) -> bool:
        return tag in self._calls

    def add(self, tag: int) -> None:
        """A call came; whether it can begin or not, it is open from now on."""
        self._calls[tag] = None

    def begin(self, tag: int, request: bytes, caller: Caller, ended: Ended, *, sink: Sink | None = None) -> None:
        """Begins a call. `ended` must pass it on to `self.ended`; `sink` takes parts of the answer, if it may have any.

        Raises:
            HeadraceError: SERVER_OVERLOADED (RESOURCE_EXHAUSTED), or what `InferenceHandler.begin` raises.
        """
        self._gate.enter()
        try:
            self._calls[tag] = self._inference.begin(request, caller, ended, tag, windowed=True, sink=sink)
        except BaseException:
            self._gate.leave()
            raise
        self.held_bytes += len(request)

    def ended(self, call: InferenceCall) -> bytes:
        """Gives back what the call took, and its request, which is no longer counted and so no longer held."""
        self._gate.leave()
        payload = call.forget_request()
        self.held_bytes -= len(payload)
        return payload

    def give_up(self, call: InferenceCall, error: HeadraceError) -> None:
        """Ends a call in flight with a failure of this side."""
        self._inference.give_up(call, error)

    def cancel(self, tag: int) -> InferenceCall | None:
        """Cancels a call and returns it, to be passed on to `ended`; None when it isn't in flight."""
        call = self._calls.get(tag)
        if call is None or call.ended is None:
            return None
        self._inference.cancel(call)
        return call

    def remove(self, tag: int) -> None:
        """The call's answer is on its way."""
        del self._calls[tag]

    def close(self) -> None:
        """Cancels and forgets every call, the last first: those that wait are not to be sent as others make room."""
        for tag in tuple(reversed(self._calls)):
            call = self.cancel(tag)
            if call is not None:
                self.ended(call)
        self._calls.clear()
