"""Bad requests for what Triton adds to the protocol."""

from __future__ import annotations

from typing import Any

from headrace_common import catalogue as errors
from inference import model_repository_pb2 as repository
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip
from support.bad_calls import SUM, Case, Y, bad, calling, infer, inferring, tensor
from support.parties import Party

MALFORMED = b"\x0a\xff\xff"
LOAD, UNLOAD = "RepositoryModelLoad", "RepositoryModelUnload"


def number(value: int) -> oip.InferParameter:
    return oip.InferParameter(int64_param=value)


def text(value: str) -> oip.InferParameter:
    return oip.InferParameter(string_param=value)


def wanting(**parameters: oip.InferParameter) -> oip.ModelInferRequest:
    """A request for the output z with these parameters."""
    return infer(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="z", parameters=parameters)])


def with_parameters(**parameters: oip.InferParameter) -> oip.ModelInferRequest:
    return infer(parameters=parameters)


def streaming(party: Party, request: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
    """One request on a stream that ends with the first failure's status."""
    metadata = (*party.metadata, ("triton_grpc_error", "true"))
    return list(party.inference.ModelStreamInfer(iter([request]), metadata=metadata, timeout=60))


def streaming_bytes(party: Party, message: bytes) -> list[Any]:
    """Likewise, with any bytes as the request."""
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    call: Any = party.channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
    metadata = (*party.metadata, ("triton_grpc_error", "true"))
    return list(call(iter([message]), metadata=metadata, timeout=60))


def loading(**fields: Any) -> repository.RepositoryModelLoadRequest:
    return repository.RepositoryModelLoadRequest(**fields)


def overridden(name: str) -> repository.RepositoryModelLoadRequest:
    return loading(model_name=SUM, parameters={name: repository.ModelRepositoryParameter(string_param="{}")})


EXTENSIONS: dict[str, Case] = {
    "input in shared memory": inferring(
        infer(tensor("x", parameters={"shared_memory_region": text("r")}), Y),
        errors.PARAMETER_INVALID,
        "inputs[0].parameters.shared_memory_region",
        "no shared memory",
    ),
    "output in shared memory": inferring(
        wanting(shared_memory_region=text("r")),
        errors.PARAMETER_INVALID,
        "outputs[0].parameters.shared_memory_region",
        "no shared memory",
    ),
    "no classes": inferring(
        wanting(classification=number(0)), errors.PARAMETER_INVALID, "outputs[0].parameters.classification", "from 1"
    ),
    "classes in words": inferring(
        wanting(classification=text("two")), errors.PARAMETER_INVALID, "outputs[0].parameters.classification", "from 1"
    ),
    "raw or typed, in words": inferring(
        wanting(binary_data=text("no")), errors.PARAMETER_INVALID, "outputs[0].parameters.binary_data", "truth value"
    ),
    "raw or typed, as a number": inferring(
        with_parameters(binary_data_output=number(0)),
        errors.PARAMETER_INVALID,
        "parameters.binary_data_output",
        "truth value",
    ),
    "reserved parameter": inferring(
        with_parameters(triton_fast=number(1)), errors.PARAMETER_INVALID, "parameters.triton_fast", "reserved"
    ),
    "sequence of a fraction": inferring(
        with_parameters(sequence_id=oip.InferParameter(double_param=0.5)),
        errors.PARAMETER_INVALID,
        "parameters.sequence_id",
        "whole number",
    ),
    "sequence of a long name": inferring(
        with_parameters(sequence_id=text("x" * 129)), errors.PARAMETER_INVALID, "parameters.sequence_id", "128 bytes"
    ),
    "sequence that starts in words": inferring(
        with_parameters(sequence_id=number(7), sequence_start=text("yes")),
        errors.PARAMETER_INVALID,
        "parameters.sequence_start",
        "truth value",
    ),
    "latency in numbers": inferring(
        with_parameters(latency_critical=number(1)),
        errors.PARAMETER_INVALID,
        "parameters.latency_critical",
        "truth value",
    ),
    "parameters without end": inferring(
        with_parameters(**{f"p{index}": text("x" * 1_000) for index in range(100)}),
        errors.FIELD_TOO_LONG,
        "parameters",
        str(64 << 10),
    ),
    "unknown model on a stream": bad(
        lambda world: streaming(world.acme, infer(model_name="absent")), errors.MODEL_NOT_FOUND, None, "'absent'"
    ),
    "malformed bytes on a stream": bad(lambda world: streaming_bytes(world.acme, MALFORMED), errors.REQUEST_MALFORMED),
    "viewer opens a stream": bad(lambda world: streaming(world.viewer, infer()), errors.ROLE_FORBIDDEN, None, "'user'"),
    "viewer loads a model": bad(
        lambda world: world.viewer(world.viewer.inference.RepositoryModelLoad, loading(model_name=SUM)),
        errors.ROLE_FORBIDDEN,
        None,
        "'model_admin'",
    ),
    "load of no model": calling("inference", LOAD, loading(), errors.FIELD_REQUIRED, "model_name"),
    "load of an unknown model": calling(
        "inference", LOAD, loading(model_name="absent"), errors.MODEL_NOT_FOUND, None, "'absent'"
    ),
    "load from a repository": calling(
        "inference",
        LOAD,
        loading(repository_name="r", model_name=SUM),
        errors.FIELD_INVALID,
        "repository_name",
        "one repository",
    ),
    "load with a configuration": calling(
        "inference", LOAD, overridden("config"), errors.PARAMETER_INVALID, "parameters.config", "new version"
    ),
    "load with a file": calling(
        "inference",
        LOAD,
        overridden("file:1/model.onnx"),
        errors.PARAMETER_INVALID,
        "parameters.file:1/model.onnx",
        "new version",
    ),
    "unload of no model": calling(
        "inference", UNLOAD, repository.RepositoryModelUnloadRequest(), errors.FIELD_REQUIRED, "model_name"
    ),
    "unload with dependents in words": calling(
        "inference",
        UNLOAD,
        repository.RepositoryModelUnloadRequest(
            model_name=SUM,
            parameters={"unload_dependents": repository.ModelRepositoryParameter(string_param="yes")},
        ),
        errors.PARAMETER_INVALID,
        "parameters.unload_dependents",
        "truth value",
    ),
    "index of a repository": calling(
        "inference",
        "RepositoryIndex",
        repository.RepositoryIndexRequest(repository_name="r"),
        errors.FIELD_INVALID,
        "repository_name",
        "one repository",
    ),
    "configuration of no model": calling(
        "inference", "ModelConfig", oip.ModelConfigRequest(), errors.FIELD_REQUIRED, "name"
    ),
    "configuration of an unknown version": calling(
        "inference", "ModelConfig", oip.ModelConfigRequest(name=SUM, version="9"), errors.MODEL_VERSION_NOT_FOUND
    ),
    "statistics of an unknown model": calling(
        "inference",
        "ModelStatistics",
        statistics.ModelStatisticsRequest(name="absent"),
        errors.MODEL_NOT_FOUND,
        None,
        "'absent'",
    ),
} | {
    f"malformed bytes for {method}": bad(
        lambda world, path=f"/inference.GRPCInferenceService/{method}": world.acme.raw(path, MALFORMED),
        errors.REQUEST_MALFORMED,
    )
    for method in ("ModelConfig", "ModelStatistics", "RepositoryIndex", LOAD, UNLOAD)
}
