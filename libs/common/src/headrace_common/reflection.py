"""Server reflection (v1 and v1alpha) that shows named services and what they need, and nothing else of the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2  # pyright: ignore[reportMissingTypeStubs]
from grpc_reflection.v1alpha import reflection_pb2

from headrace_common.call import Call
from headrace_common.rpc_method import bidi_stream
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.rpc_service import ANY_ROLE, Authenticator, ServiceHandler, service_handler

REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Answers from the files of the named services, their imports and what failures carry; the rest stays unseen.

    Raises:
        KeyError: A service isn't in the process's descriptor pool.
    """

    def __init__(self, *, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._files: dict[str, FileDescriptor] = {}
        pool = descriptor_pool.Default()
        for service in self._services:
            self._add(pool.FindFileContainingSymbol(service))
        # No service names these, because failures carry them as `Any`.
        self._add(error_details_pb2.DESCRIPTOR)
        self._file_by_symbol = {symbol: file for file in self._files.values() for symbol in _symbols(file)}

    async def info(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers each question of the stream in order."""
        async for request in requests:
            response = self.answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response

    def answer(self, request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        """The answer to one question, without the echo of the question."""
        response = reflection_pb2.ServerReflectionResponse()
        match request.WhichOneof("message_request"):
            case "list_services":
                for service in self._services:
                    response.list_services_response.service.add(name=service)
            case "file_by_filename":
                self._put_file(response, self._files.get(request.file_by_filename))
            case "file_containing_symbol":
                self._put_file(response, self._file_by_symbol.get(request.file_containing_symbol))
            case "all_extension_numbers_of_type":
                if request.all_extension_numbers_of_type in self._file_by_symbol:
                    response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
                else:
                    _put_error(response, grpc.StatusCode.NOT_FOUND)
            case "file_containing_extension":
                _put_error(response, grpc.StatusCode.NOT_FOUND)
            case _:
                _put_error(response, grpc.StatusCode.INVALID_ARGUMENT)
        return response

    def handlers(self, runtime: RpcRuntime, authenticate: Authenticator | None = None) -> list[ServiceHandler]:
        """One handler for each version of the protocol; the messages of the two are the same on the wire."""
        method = bidi_stream(
            self.info,
            reflection_pb2.ServerReflectionRequest,
            reflection_pb2.ServerReflectionResponse,
            role=ANY_ROLE,
            endless=True,
        )
        return [
            service_handler(name, {"ServerReflectionInfo": method}, runtime=runtime, authenticate=authenticate)
            for name in REFLECTION_SERVICES
        ]

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for dependency in file.dependencies:
                self._add(dependency)

    def _put_file(self, response: reflection_pb2.ServerReflectionResponse, file: FileDescriptor | None) -> None:
        if file is None:
            _put_error(response, grpc.StatusCode.NOT_FOUND)
            return
        needed: dict[str, FileDescriptor] = {}
        _collect(file, needed.setdefault)
        response.file_descriptor_response.file_descriptor_proto.extend(
            descriptor.serialized_pb for descriptor in needed.values()
        )


def _collect(file: FileDescriptor, put: Callable[[str, FileDescriptor], FileDescriptor]) -> None:
    put(file.name, file)
    for dependency in file.dependencies:
        _collect(dependency, put)


def _put_error(response: reflection_pb2.ServerReflectionResponse, code: grpc.StatusCode) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = code.value[1]


def _symbols(file: FileDescriptor) -> Iterable[str]:
    for service in file.services_by_name.values():
        yield service.full_name
        for method in service.methods:
            yield method.full_name
    for enum in file.enum_types_by_name.values():
        yield enum.full_name
    pending = list(file.message_types_by_name.values())
    while pending:
        message = pending.pop()
        yield message.full_name
        for field in message.fields:
            yield field.full_name
        for enum in message.enum_types:
            yield enum.full_name
        pending.extend(message.nested_types)
