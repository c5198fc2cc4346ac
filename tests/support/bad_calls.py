"""The parts of a table of bad calls: who sends them, what is bad, how each must be answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace_common.catalogue import CatalogueEntry
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.parties import Operator, Party, Tenant, chunks, header

SUM = "sum"
"""Model of the table's tenant: z = x + y, FP32 of shape (-1, 4)."""
SUM_FILE = onnx_models.add()
OTHER_FILE = onnx_models.tiny()


@dataclass(frozen=True, kw_only=True)
class World:
    """Everybody who sends something bad. `acme` owns the model SUM in version 1."""

    acme: Party
    acme_tenant: Tenant
    viewer: Party
    nobody: Party
    revoked: Party
    suspended: Party
    operator: Operator
    neighbour: Party

    def with_key(self, *pairs: tuple[str, str]) -> Party:
        return Party(self.acme.channel, pairs)


def tensor(name: str, shape: tuple[int, ...] = (1, 4), datatype: str = "FP32", **fields: Any) -> Any:
    return oip.ModelInferRequest.InferInputTensor(name=name, shape=shape, datatype=datatype, **fields)


X, Y, ROW = tensor("x"), tensor("y"), bytes(16)
FLOATS = oip.InferTensorContents(fp32_contents=[1, 2, 3, 4])


def infer(*inputs: Any, raw: tuple[bytes, ...] = (ROW, ROW), **fields: Any) -> oip.ModelInferRequest:
    """A request to SUM that is right but for what a case replaces."""
    values: dict[str, Any] = {"model_name": SUM, "inputs": inputs or (X, Y), "raw_input_contents": raw, **fields}
    return oip.ModelInferRequest(**values)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bad call, and how it is answered.

    Attributes:
        send: Makes the call.
        entry: Of the catalogue.
        field: The field of the request that BadRequest names.
        says: What the message must hold besides the field: the limit, or what was expected.
    """

    send: Callable[[World], object]
    entry: CatalogueEntry
    field: str | None = None
    says: tuple[str, ...] = ()


def bad(send: Callable[[World], object], entry: CatalogueEntry, field: str | None = None, *says: str) -> Case:
    return Case(send=send, entry=entry, field=field, says=says)


def inferring(request: oip.ModelInferRequest, entry: CatalogueEntry, field: str | None = None, *says: str) -> Case:
    return bad(lambda world: world.acme.infer(request), entry, field, *says)


def uploading(
    content: bytes,
    entry: CatalogueEntry,
    field: str | None = None,
    *says: str,
    sent: bytes | None = None,
    **fields: Any,
) -> Case:
    """An upload of a new model; `sent` is what follows the header where that isn't the content."""
    messages = [header("broken", content, **fields), *chunks(content if sent is None else sent)]
    return bad(lambda world: world.acme.upload(messages), entry, field, *says)


def calling(
    service: str, method: str, request: Any, entry: CatalogueEntry, field: str | None = None, *says: str
) -> Case:
    """A unary call of acme's admin; `service` is the name of a stub."""
    return bad(lambda world: world.acme(getattr(getattr(world.acme, service), method), request), entry, field, *says)
