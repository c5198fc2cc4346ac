"""An inference as a form: files and texts for models that take them as they are, one row for each part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace_client import byte_elements
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.datatypes import BYTES
from headrace_client.errors import ValidationError
from headrace_gateway.http.document_fields import SHOWN, parse_json, refused
from headrace_gateway.http.infer_document import OPTIONS, Inference, read_options, set_model
from headrace_gateway.http.multipart_parts import PartEnd, PartHead, PartReader

_FIELDS = OPTIONS | {"modelId"}
# Of these the text itself is the value; all others are JSON.
_TEXTS = frozenset(("modelId", "outputEncoding"))


def read_form(body: bytes, content_type: str) -> Inference:
    """What a `multipart/form-data` body asks for.

    The fields of the JSON document are parts of that name. Every other part, file or text, is an element of the BYTES
    input of its name, as its bytes are: what is in them is the model's runner's to find out.

    Args:
        body: All of it.
        content_type: The header, with the boundary.

    Raises:
        ValidationError: It is no such body, or a field can't be right.
    """
    fields: dict[str, Any] = {}
    elements: dict[str, list[bytes]] = {}
    for name, content in _parts(body, content_type):
        if name not in _FIELDS:
            elements.setdefault(name, []).append(content)
        elif name in fields:
            raise refused(name, "is there twice")
        else:
            fields[name] = _text(content, name) if name in _TEXTS else _json(content, name)
    if "modelId" not in fields:
        raise refused("modelId", "is missing")
    if not elements:
        raise refused("inputs", "are missing: each part that is no field is an element of the input that it names")
    message = inference_pb2.InferRequest()
    set_model(message, fields["modelId"], "modelId")
    for name, rows in elements.items():
        message.request.inputs.add(name=name, datatype=BYTES, shape=[len(rows)])
        message.request.raw_input_contents.append(byte_elements.packed(rows))
    return read_options(message, fields)


def _parts(body: bytes, content_type: str) -> Iterator[tuple[str, bytes]]:
    reader = PartReader(content_type)
    name, content = "", bytearray()
    for event in reader.feed(body):
        if isinstance(event, PartHead):
            name, content = event.name, bytearray()
        elif isinstance(event, PartEnd):
            yield name, bytes(content)
        else:
            content += event
    reader.finish()


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise refused(name, "must be UTF-8") from None


def _json(content: bytes, name: str) -> object:
    try:
        return parse_json(content)
    except ValidationError:
        raise refused(name[:SHOWN], "must be JSON") from None
