"""Runs the requests of one execution: tensors in, the model once, tensors out. In the threads of a replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, ModelError
from headrace_common.lanes import PayloadParts
from headrace_runner.backends.contract import LoadedModel
from headrace_runner.execution.sequences import SequenceStep
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.parameters import read_parameters
from headrace_runner.tensors.request_reader import CheckedRequest
from headrace_runner.tensors.signature import Signature

# From so many bytes on they are put together by NumPy, which lets other threads run meanwhile.
_JOIN_BYTES_MAX = 1 << 16


class Executed(NamedTuple):
    """What came of one execution, times in seconds.

    Attributes:
        payloads: One answer for each request, or the failure of all of them.
        rows: Rows of all requests together.
        input_s: Time in which tensors were read, `output_s` in which they were written.
    """

    payloads: list[bytes | PayloadParts] | HeadraceError
    rows: int
    input_s: float = 0.0
    output_s: float = 0.0


class _NotSplittable(Exception):
    """The model gave outputs whose first axis doesn't count the rows that went in."""


class BatchExecution:
    """Executes requests of one group together. Called from several threads at once.

    Args:
        name: Model and version for messages.
        model: The loaded model.
        signature: What its requests were checked against.
        writer: Makes the answers.

    Attributes:
        splits: Whether the model's outputs can be split by rows; once they could not, nothing should be batched.
    """

    def __init__(
        self, *, name: str, model: LoadedModel, signature: Signature, writer: ResponseWriter, clock: Clock
    ) -> None:
        self.splits = True
        self._name = name
        self._model = model
        self._signature = signature
        self._writer = writer
        self._clock = clock
        self._log = structlog.stdlib.get_logger("execution")

    def run(self, requests: Sequence[CheckedRequest], step: SequenceStep | None = None) -> Executed:
        """Executes all requests in one go. A failure is that of every one of them, so the caller tries each alone.

        Args:
            requests: Of one group.
            step: Of the only one, where it belongs to a sequence: the state for it, and where the next one goes.
        """
        rows = sum(request.kind.rows for request in requests)
        try:
            if len(requests) == 1:
                return self._alone(requests[0], step)
            return self._together(requests, rows)
        except HeadraceError as failure:
            return Executed(failure, rows)
        except _NotSplittable:
            self.splits = False
            self._log.warning("outputs have no row for each row of the inputs, so nothing is batched", model=self._name)
        except BaseException as failure:  # noqa: BLE001 - a backend may raise anything; the slot must come back
            self._log.error("backend failed", model=self._name, exc_info=failure)
        return Executed(
            ModelError("the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED), rows
        )

    def _alone(self, checked: CheckedRequest, step: SequenceStep | None) -> Executed:
        started_s = self._clock.monotonic()
        request = checked.request
        inputs = {tensor.name: to_array(tensor) for tensor in request.inputs}
        parameters = read_parameters(request.parameters) if request.parameters else {}
        read_s = self._clock.monotonic()
        outputs = checked.kind.outputs
        if step is not None:
            inputs.update(step.inputs)
            outputs += tuple(name for name in step.outputs if name not in outputs)
        arrays = self._model.infer(inputs, outputs, parameters)
        if step is not None:
            step.computed(dict(zip(outputs, arrays, strict=True)))
        inferred_s = self._clock.monotonic()
        payload = self._writer.write(
            request.id, self._named(checked.kind.outputs, arrays[: len(checked.kind.outputs)]), request.form
        )
        return Executed([payload], checked.kind.rows, read_s - started_s, self._clock.monotonic() - inferred_s)

    def _together(self, requests: Sequence[CheckedRequest], rows: int) -> Executed:
        started_s = self._clock.monotonic()
        first, outputs = requests[0].kind.request, requests[0].kind.outputs
        inputs = {tensor.name: _joined(requests, index, rows) for index, tensor in enumerate(first.inputs)}
        parameters = read_parameters(first.parameters) if first.parameters else {}
        read_s = self._clock.monotonic()
        arrays = self._model.infer(inputs, outputs, parameters)
        inferred_s = self._clock.monotonic()
        if any(array.ndim == 0 or array.shape[0] != rows for array in arrays):
            raise _NotSplittable
        payloads = self._writer.split(
            self._named(outputs, arrays),
            [(request.kind.request.id, request.kind.rows, request.kind.request.form) for request in requests],
        )
        return Executed(payloads, rows, read_s - started_s, self._clock.monotonic() - inferred_s)

    def _named(self, names: Sequence[str], arrays: Sequence[Array]) -> list[tuple[str, str, Array]]:
        specs = self._signature.outputs
        return [(name, specs[name].datatype, array) for name, array in zip(names, arrays, strict=True)]


def _joined(requests: Sequence[CheckedRequest], index: int, rows: int) -> Array:
    """The rows of one input of several requests, one after another, by one copy."""
    first = requests[0].kind.request.inputs[index]
    datatype = DATATYPES[first.datatype]
    if datatype.item_bytes and datatype.name != "BOOL":
        raws = [raw for request in requests if (raw := request.raw(index)) is not None]
        if len(raws) == len(requests) and sum(map(len, raws)) <= _JOIN_BYTES_MAX:
            return np.frombuffer(b"".join(raws), dtype=datatype.dtype).reshape(rows, *first.shape[1:])
    return np.concatenate([to_array(request.request.inputs[index]) for request in requests])
