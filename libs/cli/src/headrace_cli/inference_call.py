"""One request to a model: built from what a person gave, sent, and shown."""

from __future__ import annotations

import time

from rich.text import Text

from headrace.registry.v1 import manifest_pb2
from headrace_cli.commands.models import get_version, split_version
from headrace_cli.commands.session import print_json
from headrace_cli.connection import Connection
from headrace_cli.presentation import shape_text, table
from headrace_cli.tensor_input import parse_input_argument, read_source, to_array, to_raw
from headrace_cli.tensor_output import Output, as_json, preview, read_outputs, top_classes
from headrace_cli.terminal import output
from headrace_common.errors import ValidationError
from inference import open_inference_pb2, open_inference_pb2_grpc


def infer_once(connection: Connection, *, model: str, inputs: list[str], outputs: list[str], json_answer: bool) -> None:
    """Send one request and print its answer.

    Raises:
        HeadraceError: the mesh refused it, or an input doesn't fit.
        UnreachableError: nobody answers.
    """
    name, number = split_version(model)
    manifest = get_version(connection, name, number).manifest
    request = build_request(name, number, inputs, outputs, manifest)
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
    started_at = time.monotonic()
    response = connection.call(stub.ModelInfer, request)
    took_s = time.monotonic() - started_at
    answers = read_outputs(response)
    if json_answer:
        answered = [as_json(answer) for answer in answers]
        print_json({"model": response.model_name, "version": response.model_version, "outputs": answered})
        return
    _print_answers(answers, list(manifest.class_labels))
    output().print(Text(f"{response.model_name}:{response.model_version} in {took_s * 1000:.0f} ms", style="quiet"))


def build_request(
    model: str, version: int, inputs: list[str], outputs: list[str], manifest: manifest_pb2.Manifest
) -> open_inference_pb2.ModelInferRequest:
    """The request for what the person gave, with raw contents.

    Raises:
        ValidationError: an input is unknown, given twice, or doesn't fit its datatype.
    """
    request = open_inference_pb2.ModelInferRequest(model_name=model, model_version=str(version) if version else "")
    tensors = {tensor.name: tensor for tensor in manifest.inputs}
    given: set[str] = set()
    for text in inputs:
        argument = parse_input_argument(text)
        if argument.name is None and len(tensors) != 1:
            raise ValidationError(f"'{model}' has {len(tensors)} inputs ({', '.join(tensors)}): write NAME=VALUE")
        name = argument.name if argument.name is not None else next(iter(tensors))
        if name not in tensors:
            raise ValidationError(f"'{model}' has no input '{name}', only {', '.join(tensors)}", field=name)
        if name in given:
            raise ValidationError(f"input '{name}' is given twice", field=name)
        given.add(name)
        datatype = tensors[name].datatype
        array = to_array(read_source(argument.source), datatype=datatype, name=name)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(array, datatype=datatype))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _print_answers(answers: list[Output], labels: list[str]) -> None:
    shown = table("output", "datatype", "shape", "values")
    for answer in answers:
        shown.add_row(
            Text(answer.name, style="name"),
            answer.datatype,
            Text(shape_text(list(answer.array.shape))),
            Text(preview(answer)),
        )
    console = output()
    console.print(shown)
    for answer in answers:
        for position, row in enumerate(top_classes(answer, labels)):
            classes = ", ".join(f"{label} {score:.1%}" for label, score in row)
            console.print(Text.assemble((f"row {position}: ", "quiet"), (classes, "value")))
