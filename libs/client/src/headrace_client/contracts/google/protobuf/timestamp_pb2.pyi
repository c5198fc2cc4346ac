
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf.internal import well_known_types as _well_known_types
import builtins as _builtins
import sys
import typing as _typing

if sys.version_info >= (3, 11):
    from typing import TypeAlias as _TypeAlias, Never as _Never
else:
    from typing_extensions import TypeAlias as _TypeAlias, Never as _Never

DESCRIPTOR: _descriptor.FileDescriptor

@_typing.final
class Timestamp(_message.Message, _well_known_types.Timestamp):

    DESCRIPTOR: _descriptor.Descriptor

    SECONDS_FIELD_NUMBER: _builtins.int
    NANOS_FIELD_NUMBER: _builtins.int
    seconds: _builtins.int
    nanos: _builtins.int
    def __init__(
        self,
        *,
        seconds: _builtins.int = ...,
        nanos: _builtins.int = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["nanos", b"nanos", "seconds", b"seconds"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___Timestamp: _TypeAlias = Timestamp  # noqa: Y015
