"""The descriptor pool of this package: its messages never meet those of other packages in the process.

Protobuf allows one definition of a message in a pool, and other clients of the Open Inference Protocol define the same
names in the default pool.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTORS = "descriptors.binpb"


def _loaded() -> Any:
    pool: Any = descriptor_pool.DescriptorPool()
    content = files("headrace_client.contracts").joinpath(DESCRIPTORS).read_bytes()
    # protoc writes each file after those that it imports.
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL: Any = _loaded()
"""For `google.protobuf.json_format`, which asks for the pool of messages inside `Any`."""


def define(namespace: dict[str, Any], name: str) -> None:
    """Put the messages and enums of a file into a module's namespace, as compiled code would."""
    file = POOL.FindFileByName(name)
    namespace["DESCRIPTOR"] = file
    for message in file.message_types_by_name.values():
        made: Any = message_factory.GetMessageClass(message)
        made.__module__ = namespace["__name__"]
        namespace[message.name] = made
    for enum in file.enum_types_by_name.values():
        namespace[enum.name] = EnumTypeWrapper(enum)
        namespace.update((value.name, value.number) for value in enum.values)
