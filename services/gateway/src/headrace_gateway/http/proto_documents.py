"""Messages of the contracts as JSON, and JSON as messages.

As protobuf's own JSON, but that whole numbers of 64 bits are numbers, not texts; in what comes they may be either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from headrace_client.errors import ValidationError
from headrace_client.private_pool import POOL
from headrace_common import catalogue
from headrace_gateway.http.bodies import content_type
from headrace_gateway.http.document_fields import WHOLE, Object, object_at, parse_json
from headrace_gateway.http.failures import failed
from headrace_gateway.http.front import Front

M = TypeVar("M", bound=Message)

BODY_BYTES_MAX = 1 << 20
# What curl says of a body when it isn't told; some clients say nothing.
_JSON_TYPES = frozenset(("", "application/json", "application/x-www-form-urlencoded"))
_AT = re.compile(r' at "\w+\.([^"]*)"')
_PARSED = re.compile(r"Failed to parse (\w+) field")
_UNKNOWN = re.compile(r'has no field named "([^"]*)"')
_NAME_CHARS_MAX = 64
_TEXTS: Mapping[str, Object] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
}
_TYPES: Mapping[int, Object] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
}
_LONG = frozenset((FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64))


def document_of(message: Message, *, snake_case: bool = False) -> Object:
    """All fields of a message but absent messages, by their names in camelCase or as the contract has them."""
    document = MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=snake_case,
        descriptor_pool=POOL,
    )
    _make_numbers(document, message.DESCRIPTOR, snake_case=snake_case)
    return document


def message_of(kind: type[M], document: Mapping[str, Any]) -> M:
    """The message that a document of fields in camelCase says.

    Raises:
        ValidationError: a field is unknown, or its value of another kind (FIELD_INVALID).
    """
    try:
        return ParseDict(dict(document), kind(), descriptor_pool=POOL, max_recursion_depth=20)
    except (ParseError, RecursionError) as error:
        raise _refused(str(error)) from None


def _refused(said: str) -> ValidationError:
    """What is wrong, in our words: protobuf's name its classes."""
    at, unknown = _AT.search(said), _UNKNOWN.search(said)
    # It says the path of what it doesn't know, and of other values the names that lead to them.
    field = at.group(1) if at else ".".join(_PARSED.findall(said))
    if unknown:
        why = f"{field or 'the body'} has no field named '{unknown.group(1)[:_NAME_CHARS_MAX]}'"
    elif field:
        why = f"{field} can't hold this value"
    else:
        why = "the body isn't made of this message's fields, or nested too deeply"
    return ValidationError(why, field=field or None)


def answer(document: object, *, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def created(document: object, *path: str) -> Response:
    """The answer of what was made, and where it is."""
    made = answer(document, status=201)
    made.headers["location"] = "/" + "/".join(quote(part, safe="") for part in path)
    return made


def json_body(kind: type[Message], *, required: Sequence[str] = (), without: Sequence[str] = ()) -> Object:
    """`openapi_extra` of a route whose body is such a message, `without` what the path says."""
    schema = _schema(kind.DESCRIPTOR)
    for name in without:
        del schema["properties"][name]
    return {
        "requestBody": {
            "required": bool(required),
            "content": {"application/json": {"schema": schema | ({"required": list(required)} if required else {})}},
        }
    }


async def read_document(request: Request, front: Front) -> Object:
    """The object of JSON that is the body; an empty one for none.

    Raises:
        HeadraceError: MESSAGE_TOO_LARGE and what else keeps a body from being read, CONTENT_TYPE_UNSUPPORTED,
            REQUEST_MALFORMED.
    """
    kind = content_type(request)
    if kind not in _JSON_TYPES:
        raise failed(
            catalogue.CONTENT_TYPE_UNSUPPORTED,
            f"the body must be application/json, not {kind[:80]}",
            context={"contentType": kind[:80]},
        )
    async with front.bodies.read(request, bytes_max=BODY_BYTES_MAX) as body:
        if not body:
            return {}
        return object_at(parse_json(body), WHOLE)


def _make_numbers(document: Object, kind: Any, *, snake_case: bool) -> None:
    for field in kind.fields:
        name = field.name if snake_case else field.json_name
        value: Any = document.get(name)
        inner = field.message_type
        if not value:
            continue
        if inner is not None and inner.GetOptions().map_entry:
            _make_map_numbers(value, inner.fields_by_name["value"], snake_case=snake_case)
        elif inner is not None:
            for part in value if field.is_repeated else [value]:
                # Times and durations are texts.
                if isinstance(part, dict):
                    _make_numbers(cast("Object", part), inner, snake_case=snake_case)
        elif field.cpp_type in _LONG:
            document[name] = [int(number) for number in value] if field.is_repeated else int(value)


def _make_map_numbers(entries: Object, value: Any, *, snake_case: bool) -> None:
    for key, entry in entries.items():
        if value.message_type is not None:
            _make_numbers(entry, value.message_type, snake_case=snake_case)
        elif value.cpp_type in _LONG:
            entries[key] = int(entry)


def _schema(kind: Any) -> Object:
    properties = {field.json_name: _field_schema(field) for field in kind.fields}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _field_schema(field: Any) -> Object:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _field_schema(inner.fields_by_name["value"])}
    one: Object = _TYPES.get(field.cpp_type, {"type": "integer"})
    if field.enum_type is not None:
        one = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    elif inner is not None:
        one = _TEXTS.get(inner.full_name) or _schema(inner)
    return {"type": "array", "items": one} if field.is_repeated else one
