"""Reads and checks the requests of one model, the same ones faster."""

from __future__ import annotations

from typing import NamedTuple

from headrace_common import wire
from headrace_common.request_templates import RequestTemplates, Spans
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.parameters import ParameterValue, read_parameters
from headrace_runner.tensors.signature import Signature

_GROUPS_MAX = 256
# What says how a call travels or waits, not what the model computes.
_NOT_THE_MODELS = frozenset(
    ("priority", "timeout", "binary_data_output", "latency_critical", "triton_enable_empty_final_response")
)


class Group:
    """Requests that may share an execution: equal but for their elements and their number of rows."""

    __slots__ = ()


class RequestKind(NamedTuple):
    """What requests have in common that differ in their elements alone.

    Attributes:
        request: One of them; where they are recognised again, without its elements.
        outputs: Names of the outputs to send back.
        rows: Its rows, 1 for a model that is not batched.
        group: What it may share an execution with; None for nothing.
    """

    request: InferRequest
    outputs: tuple[str, ...]
    rows: int
    group: Group | None


class CheckedRequest(NamedTuple):
    """A request that fits the model. It keeps the payload alive.

    Attributes:
        kind: What it is but for its elements.
        payload: The request as it came.
        spans: Where the elements of each input are in the payload; empty where the kind's request has them itself.
    """

    kind: RequestKind
    payload: wire.Buffer
    spans: Spans = ()

    @property
    def request(self) -> InferRequest:
        """The request with its tensors as views of the payload."""
        request = self.kind.request
        if not self.spans:
            return request
        view = memoryview(self.payload)
        inputs = tuple(
            tensor._replace(raw=view[start:stop])
            for tensor, (start, stop) in zip(request.inputs, self.spans, strict=True)
        )
        return request._replace(inputs=inputs)

    def raw(self, index: int) -> wire.Buffer | None:
        """The raw elements of one input, or None where it came in the typed form."""
        if not self.spans:
            return self.kind.request.inputs[index].raw
        start, stop = self.spans[index]
        return memoryview(self.payload)[start:stop]


class RequestReader:
    """Turns a payload into a checked request. One that differs from a former one in its elements alone takes no walk.

    What `Signature.check` looks at, sizes included, is the same for such requests.

    Args:
        signature: What requests must fit.
        batched: Whether the first axis of every tensor counts rows.
    """

    def __init__(self, signature: Signature, *, batched: bool = False) -> None:
        self._signature = signature
        self._batched = batched
        self._templates: RequestTemplates[RequestKind] = RequestTemplates()
        self._groups: dict[object, Group] = {}

    def read(self, payload: wire.Buffer) -> CheckedRequest:
        """The request, checked.

        Raises:
            TensorError, ValidationError: What `read_infer_request` and `Signature.check` raise.
        """
        found = self._templates.find(payload) if isinstance(payload, bytes) else None
        if found is not None:
            kind, spans = found
            return CheckedRequest(kind, payload, spans)
        request = read_infer_request(payload)
        outputs = self._signature.check(request)
        rows = self._signature.rows_of(request) if self._batched else 1
        # What may be left out needn't have rows, so it can't be put together with that of others.
        alike = self._batched and self._signature.all_required(request) and not self._signature.in_sequence(request)
        kind = RequestKind(request, outputs, rows, self._group_of(request, outputs) if alike else None)
        # Parameters are views of the payload, which a remembered request must not keep alive.
        # Nor is one worth remembering that no other will be like, because it has an identifier.
        if isinstance(payload, bytes) and request.raw_count and not request.parameters and not request.id:
            sizes = [len(tensor.raw) for tensor in request.inputs if tensor.raw is not None]
            bare = request._replace(inputs=tuple(tensor._replace(raw=None) for tensor in request.inputs))
            self._templates.remember(payload, sizes, kind._replace(request=bare))
        return CheckedRequest(kind, payload)

    def _group_of(self, request: InferRequest, outputs: tuple[str, ...]) -> Group:
        tensors = tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in request.inputs)
        key = (tensors, outputs, _model_parameters(request))
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _GROUPS_MAX:
                del self._groups[next(iter(self._groups))]
            group = self._groups[key] = Group()
        return group


def _model_parameters(request: InferRequest) -> frozenset[tuple[str, type, ParameterValue]]:
    parameters = read_parameters(request.parameters) if request.parameters else {}
    # True, 1 and 1.0 are equal to Python and not to a model.
    return frozenset((name, type(value), value) for name, value in parameters.items() if name not in _NOT_THE_MODELS)
