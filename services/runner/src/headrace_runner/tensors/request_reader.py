"""Reads and checks the requests of one model, the same ones faster."""

from __future__ import annotations

from headrace_common import wire
from headrace_common.request_templates import RequestTemplates
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.signature import Signature


class RequestReader:
    """Turns a payload into a checked request. One that differs from a former one in its elements alone takes no walk.

    What `Signature.check` looks at, sizes included, is the same for such requests.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._templates: RequestTemplates[tuple[InferRequest, tuple[str, ...]]] = RequestTemplates()

    def read(self, payload: wire.Buffer) -> tuple[InferRequest, tuple[str, ...]]:
        """The request, whose views keep `payload` alive, and the names of the outputs to send back.

        Raises:
            TensorError, ValidationError: What `read_infer_request` and `Signature.check` raise.
        """
        found = self._templates.find(payload) if isinstance(payload, bytes) else None
        if found is not None:
            (known, outputs), spans = found
            view = memoryview(payload)
            inputs = tuple(
                tensor._replace(raw=view[start:stop]) for tensor, (start, stop) in zip(known.inputs, spans, strict=True)
            )
            return known._replace(inputs=inputs), outputs
        request = read_infer_request(payload)
        outputs = self._signature.check(request)
        # Parameters are views of the payload, which a remembered request must not keep alive.
        if isinstance(payload, bytes) and request.raw_count and not request.parameters:
            sizes = [len(tensor.raw) for tensor in request.inputs if tensor.raw is not None]
            bare = request._replace(inputs=tuple(tensor._replace(raw=None) for tensor in request.inputs))
            self._templates.remember(payload, sizes, (bare, outputs))
        return request, outputs
