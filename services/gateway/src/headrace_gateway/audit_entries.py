"""Audit entries, made of calls as they came. Pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from headrace.quota.v1.audit_pb2 import AuditEntry
from headrace_common.principal import Principal
from headrace_gateway.audited_methods import Fields

REQUEST_BYTES_MAX = 4 << 10
RESOURCE_CHARS_MAX = 256
_PARSED_BYTES_MAX = 1 << 20
"""No administrative request that is taken is larger; what is isn't parsed for the log alone."""


class AuditedMethod:
    """What an entry says of one method's calls.

    Args:
        path: `/package.Service/Method`; its contract is in the default pool.
        resource: The fields that name what a call is about.
        gateway_id: Who writes.
    """

    def __init__(self, *, path: str, resource: Fields, gateway_id: str) -> None:
        service, _, name = path.removeprefix("/").partition("/")
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        self.path = path
        self.streams = method.client_streaming
        self._request: type[Message] = GetMessageClass(method.input_type)
        self._resource = resource
        self._gateway_id = gateway_id

    def entry(
        self, *, request: bytes, principal: Principal, outcome: str, request_id: str, now: datetime
    ) -> AuditEntry:
        """The entry of a call that has ended.

        Args:
            request: As it came; of a stream the first message. What is no message leaves the fields of it empty.
            principal: Who called.
            outcome: Name of the gRPC code.
            request_id: As the caller knows it.
            now: Time of the end, to the microsecond.
        """
        message = self._parsed(request)
        made = AuditEntry(
            tenant_id=principal.tenant_id,
            actor=principal.subject or f"key:{principal.key_id}",
            method=self.path,
            resource=_resource_text(message, self._resource),
            request_json=request_json(message),
            outcome=outcome,
            request_id=request_id,
            gateway_id=self._gateway_id,
        )
        made.event_time.FromDatetime(now)
        return made

    def _parsed(self, request: bytes) -> Message:
        message = self._request()
        if len(request) <= _PARSED_BYTES_MAX:
            try:
                message.ParseFromString(request)
            except DecodeError:
                message.Clear()
        return message


def request_json(message: Message) -> str:
    """The fields that are set, without bytes, as JSON on one line; what has more than 4 KiB is cut."""
    _clear_bytes(message)
    document: object
    try:
        document = MessageToDict(message, preserving_proto_field_name=True)
    except (JsonError, ValueError, OverflowError):
        # A time that no calendar has, for example. It was refused, and who tried it is to be seen all the same.
        document = {"text": text_format.MessageToString(message, as_one_line=True)}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode()[:REQUEST_BYTES_MAX].decode(errors="ignore")


def _clear_bytes(message: Message) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_BYTES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in _messages(field, value):
                _clear_bytes(part)


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    """The messages that a field holds, those of a map's values included."""
    kind = field.message_type
    assert kind is not None, "the field has messages"
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        if inner.type == FieldDescriptor.TYPE_BYTES:
            value.clear()
        return list(value.values()) if inner.message_type is not None else []
    return list(value) if field.is_repeated else [value]


def _resource_text(message: Message, paths: Fields) -> str:
    """`resnet/3`: what is there of the fields, on one line."""
    found = [text for path in paths if (text := _field_text(message, path))]
    text = "/".join(found)[:RESOURCE_CHARS_MAX]
    # What isn't to be seen has no place in a name, and the log's store can't hold all of it.
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _field_text(message: Message, path: str) -> str:
    value: Any = message
    for name in path.split("."):
        value = getattr(value, name)
    return str(value) if value else ""
