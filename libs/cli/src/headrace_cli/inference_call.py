"""One request to a model: built from what a person gave, sent, and shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.model_names import split_version
from headrace_cli.presentation import printable, shape_text, table, words
from headrace_cli.session import Session
from headrace_cli.standard_input import read_standard_input
from headrace_cli.tensor_input import parse_input_argument, parse_parameter, read_source
from headrace_cli.tensor_output import Output, as_json, preview, top_classes
from headrace_cli.terminal import output
from headrace_client import InferRequest, InferResult, Tensor
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2
from headrace_client.errors import ValidationError

_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the person wrote, as texts."""

    model: str
    inputs: Sequence[str]
    outputs: Sequence[str] = ()
    parameters: Sequence[str] = ()
    priority: int | None = None
    request_id: str | None = None


def infer_once(session: Session, asked: Asked) -> None:
    """Send one request and print its answer.

    Raises:
        BadParameter: the version is not a number.
        HeadraceError: the mesh refused it, or an input doesn't fit.
    """
    name, number = split_version(asked.model)
    with session.client(timeout_s=_TIMEOUT_S) as client:
        manifest = client.models.version(name, number).manifest
        request = build_request(asked, manifest)
        started_at = time.monotonic()
        result = client.infer(
            request.model,
            request.inputs,
            version=request.version,
            outputs=request.outputs,
            parameters=request.parameters,
            priority=request.priority,
            request_id=request.request_id,
        )
        took_s = time.monotonic() - started_at
    answers = [
        Output(name=name, datatype=result.datatypes[name], array=array) for name, array in result.outputs.items()
    ]
    if session.as_json:
        print_json(_document(result, answers))
    else:
        _print_answers(answers, manifest)
        output().print(words(_footer(result, took_s), "quiet"))


def build_request(asked: Asked, manifest: manifest_pb2.Manifest) -> InferRequest:
    """The request for what the person gave, with the datatypes that the model wants.

    Raises:
        BadParameter: the version is not a number.
        ValidationError: an input is unknown or given twice, or can't be read.
    """
    name, number = split_version(asked.model)
    datatypes = {tensor.name: tensor.datatype for tensor in manifest.inputs}
    inputs: dict[str, Tensor] = {}
    only = manifest.processing.image.input or manifest.processing.text.input
    if not only and len(datatypes) == 1:
        only = next(iter(datatypes))
    sources = [parse_input_argument(text) for text in asked.inputs]
    if sum(argument.source == "-" for argument in sources) > 1:
        raise ValidationError("standard input can be read for one input only", field="input")
    for argument in sources:
        if argument.name is None and not only:
            raise ValidationError(f"'{name}' has {len(datatypes)} inputs ({', '.join(datatypes)}): write NAME=VALUE")
        tensor = argument.name if argument.name is not None else only
        if tensor not in datatypes:
            raise ValidationError(f"'{name}' has no input '{tensor}', only {', '.join(datatypes)}", field=tensor)
        if tensor in inputs:
            raise ValidationError(f"input '{tensor}' is given twice", field=tensor)
        value = read_source(argument.source, read_stdin=lambda: read_standard_input("The tensor as JSON"))
        inputs[tensor] = Tensor(value, datatypes[tensor])
    return InferRequest(
        name,
        inputs,
        version=number,
        outputs=asked.outputs,
        parameters=dict(parse_parameter(text) for text in asked.parameters),
        priority=asked.priority,
        request_id=asked.request_id,
    )


def _document(result: InferResult, answers: list[Output]) -> dict[str, object]:
    ran = result.execution
    return {
        "model": result.model,
        "version": result.version,
        "id": result.id,
        "outputs": [as_json(answer) for answer in answers],
        "parameters": dict(result.parameters),
        "execution": {
            "runner": ran.runner,
            "backend": ran.backend,
            "device_type": ran.device_type,
            "queue_s": ran.queue_s,
            "compute_s": ran.compute_s,
        },
    }


def _footer(result: InferResult, took_s: float) -> str:
    ran = result.execution
    return (
        f"{result.model}:{result.version} in {took_s * 1000:.0f} ms, of which {ran.compute_s * 1000:.1f} ms "
        f"on {ran.runner} ({ran.backend}, {ran.device_type})"
    )


def _print_answers(answers: list[Output], manifest: manifest_pb2.Manifest) -> None:
    shown = table("output", "datatype", "shape", "values")
    for answer in answers:
        shape = shape_text(list(answer.array.shape))
        shown.add_row(words(answer.name, "name"), answer.datatype, shape, words(preview(answer)))
    console = output()
    console.print(shown)
    labels = list(manifest.class_labels)
    processing = manifest.processing
    for answer in answers:
        # What is made of the classes' numbers is not in the order of the classes.
        if answer.name in (processing.labels.scores, processing.embedding.output):
            continue
        for position, row in enumerate(top_classes(answer, labels)):
            classes = ", ".join(f"{label} {score:.1%}" for label, score in row)
            console.print(Text.assemble((f"row {position}: ", "quiet"), (printable(classes), "value")))
