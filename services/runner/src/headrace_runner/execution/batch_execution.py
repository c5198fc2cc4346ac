"""Runs the requests of one execution: tensors in, the model once, tensors out. In the threads of a replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, ModelError
from headrace_common.lanes import PayloadParts
from headrace_runner.backends.contract import LoadedModel
from headrace_runner.execution.sequences import SequenceStep
from headrace_runner.processing.processing import Processing
from headrace_runner.processing.raw_input import Row
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.parameters import ParameterValue, read_parameters
from headrace_runner.tensors.request_reader import CheckedRequest
from headrace_runner.tensors.signature import Signature

# From so many bytes on they are put together by NumPy, which lets other threads run meanwhile.
_JOIN_BYTES_MAX = 1 << 16


class Executed(NamedTuple):
    """What came of one execution, times in seconds.

    Attributes:
        payloads: One answer or failure for each request, or the failure of all of them.
        rows: Rows that the model computed; 0 where every request failed before it.
        input_s: Time in which tensors were read, `output_s` in which they were written.
    """

    payloads: list[bytes | PayloadParts | HeadraceError] | HeadraceError
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
        processing: What is done before and after the model; None for nothing.

    Attributes:
        splits: Whether the model's outputs can be split by rows; once they could not, nothing should be batched.
    """

    def __init__(
        self,
        *,
        name: str,
        model: LoadedModel,
        signature: Signature,
        writer: ResponseWriter,
        clock: Clock,
        processing: Processing | None = None,
    ) -> None:
        self.splits = True
        self._name = name
        self._model = model
        self._signature = signature
        self._writer = writer
        self._clock = clock
        self._processing = processing
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
            if self._processing is not None and self._signature.is_raw(requests[0].kind.request):
                return self._read_together(self._processing, requests)
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
        mask = None
        if self._processing is not None:
            inputs, mask = self._made(self._processing, inputs)
        read_s = self._clock.monotonic()
        outputs = checked.kind.outputs
        if step is not None:
            inputs.update(step.inputs)
            outputs += tuple(name for name in step.outputs if name not in outputs)
        arrays = self._infer(inputs, outputs, parameters, mask)
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
        mask = self._processing.mask_of(inputs) if self._processing is not None else None
        read_s = self._clock.monotonic()
        arrays = self._infer(inputs, outputs, parameters, mask)
        inferred_s = self._clock.monotonic()
        payloads = self._split(requests, arrays, rows)
        return Executed([*payloads], rows, read_s - started_s, self._clock.monotonic() - inferred_s)

    def _read_together(self, processing: Processing, requests: Sequence[CheckedRequest]) -> Executed:
        """Executes the requests whose raw input can be read; the others fail alone, and nothing is read twice."""
        started_s = self._clock.monotonic()
        answers: list[bytes | PayloadParts | HeadraceError] = []
        read: list[CheckedRequest] = []
        rows: list[Row] = []
        beside: list[dict[str, Array]] = []
        for checked in requests:
            try:
                inputs = {tensor.name: to_array(tensor) for tensor in checked.request.inputs}
                rows += processing.read(inputs.pop(processing.raw))
            except HeadraceError as failure:
                answers.append(failure)
                continue
            answers.append(b"")
            read.append(checked)
            beside.append(inputs)
        if not read:
            return Executed(answers, 0)
        made = processing.join(rows)
        inputs = {name: np.concatenate([own[name] for own in beside]) for name in beside[0]}
        first = read[0].kind.request
        parameters = read_parameters(first.parameters) if first.parameters else {}
        read_s = self._clock.monotonic()
        arrays = self._infer({**inputs, **made.inputs}, read[0].kind.outputs, parameters, made.mask)
        inferred_s = self._clock.monotonic()
        payloads = iter(self._split(read, arrays, len(rows)))
        answers = [answer if isinstance(answer, HeadraceError) else next(payloads) for answer in answers]
        return Executed(answers, len(rows), read_s - started_s, self._clock.monotonic() - inferred_s)

    def _made(self, processing: Processing, inputs: dict[str, Array]) -> tuple[dict[str, Array], Array | None]:
        """The model's tensors of one request, and where they have tokens."""
        if processing.raw not in inputs:
            return inputs, processing.mask_of(inputs)
        made = processing.join(processing.read(inputs.pop(processing.raw)))
        return {**inputs, **made.inputs}, made.mask

    def _infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        parameters: Mapping[str, ParameterValue],
        mask: Array | None,
    ) -> Sequence[Array]:
        processing = self._processing
        if processing is None:
            return self._model.infer(inputs, outputs, parameters)
        needed = processing.needed(outputs)
        computed = self._model.infer(inputs, needed, parameters)
        return processing.finish(outputs, dict(zip(needed, computed, strict=True)), mask)

    def _split(
        self, requests: Sequence[CheckedRequest], arrays: Sequence[Array], rows: int
    ) -> list[bytes | PayloadParts]:
        if any(array.ndim == 0 or array.shape[0] != rows for array in arrays):
            raise _NotSplittable
        return self._writer.split(
            self._named(requests[0].kind.outputs, arrays),
            [(request.kind.request.id, request.kind.rows, request.kind.request.form) for request in requests],
        )

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
