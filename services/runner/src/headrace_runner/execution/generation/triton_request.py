"""Generation as Triton's clients ask for it: tensors in, text out, as the vLLM backend has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError
from headrace_runner.execution.generation.request import (
    GenerationRequest,
    ModelLimits,
    check_completions,
    check_text,
)
from headrace_runner.execution.generation.sampling import NAMES, Given, check_sampling, invalid, too_long
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.parameters import read_parameters
from headrace_runner.tensors.signature import Signature, TensorSpec

TEXT_OUTPUT = "text_output"
SIGNATURE = Signature(
    inputs=(
        TensorSpec("text_input", "BYTES", (1,), False),
        TensorSpec("stream", "BOOL", (1,), True),
        TensorSpec("sampling_parameters", "BYTES", (1,), True),
        TensorSpec("exclude_input_in_output", "BOOL", (1,), True),
    ),
    outputs=(TensorSpec(TEXT_OUTPUT, "BYTES", (-1,), False),),
)
"""Tensors of every model that generates."""
_JSON_BYTES_MAX = 256 << 10
# What others call the same thing.
_SYNONYMS = {"n": "completions", "ignore_eos": "ignore_end"}
_COMPLETIONS = "completions"
_PROMPT_PATHS = {"prompt": "text_input", "text": "text_input"}
# Request parameters that say how a call travels or waits, not what is generated.
_NOT_SAMPLING = frozenset(
    (
        "priority",
        "timeout",
        "session",
        "binary_data_output",
        "latency_critical",
        "triton_enable_empty_final_response",
        "sequence_id",
        "sequence_start",
        "sequence_end",
    )
)


def read_triton_request(payload: wire.Buffer, limits: ModelLimits, seeds: Callable[[], int]) -> GenerationRequest:
    """Reads a serialised `ModelInferRequest` to a model that generates.

    Sampling parameters come in the request's parameters, or in the JSON of `sampling_parameters`; of both, the former
    count. Without `stream`, text is sent as it comes; without it being streamed, and unless `exclude_input_in_output`
    says otherwise, the output begins with the prompt.

    Raises:
        TensorError, ValidationError: What `read_infer_request` and `Signature.check` raise.
        ValidationError: FIELD_REQUIRED, FIELD_INVALID, FIELD_TOO_LONG or PARAMETER_INVALID (INVALID_ARGUMENT).
    """
    request = read_infer_request(payload)
    SIGNATURE.check(request)
    inputs = {tensor.name: to_array(tensor)[0] for tensor in request.inputs}
    text = check_text("text_input", _decoded("text_input", inputs["text_input"]), limits)
    streams = bool(inputs.get("stream", True))
    excluded = bool(inputs.get("exclude_input_in_output", streams))
    if streams and not excluded:
        raise invalid("exclude_input_in_output", "can't be false when text is sent as it comes")
    given = _from_json(inputs["sampling_parameters"]) if "sampling_parameters" in inputs else {}
    given.update(_from_parameters(request))
    completions = given.pop(_COMPLETIONS, Given(_COMPLETIONS, 1))
    return GenerationRequest(
        id=request.id,
        prompt=text,
        sampling=check_sampling(given, top_logprobs=None, seeds=seeds),
        completions=check_completions(completions.field, completions.value, limits),
        streams=streams,
        echo="" if excluded else text,
        form=request.form,
        paths={**_PROMPT_PATHS, **{f"sampling.{name}": path for name, (path, _) in given.items()}},
    )


def _from_json(data: Any) -> dict[str, Given]:
    field = "sampling_parameters"
    if len(data) > _JSON_BYTES_MAX:
        raise too_long(field, f"has {len(data)} bytes", _JSON_BYTES_MAX)
    try:
        values = json.loads(_decoded(field, data))
    except (ValueError, RecursionError):
        raise invalid(field, "is not valid JSON") from None
    if not isinstance(values, dict):
        raise invalid(field, "must be a JSON object")
    return _named(field, cast("Mapping[str, object]", values))


def _from_parameters(request: InferRequest) -> dict[str, Given]:
    values = read_parameters(request.parameters) if request.parameters else {}
    return _named("parameters", {name: value for name, value in values.items() if name not in _NOT_SAMPLING})


def _named(field: str, values: Mapping[str, object]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name, value in values.items():
        own = _SYNONYMS.get(name, name)
        path = f"{field}.{name[:64]}"
        if own not in NAMES and own != _COMPLETIONS:
            raise ValidationError(
                f"{path} is not a sampling parameter; there are {', '.join(sorted(NAMES))} and n",
                entry=catalogue.PARAMETER_INVALID,
                context={"parameter": name[:64]},
                field=path,
            )
        # A field that is null counts as absent, and -1 means all tokens where JSON is written for vLLM.
        if value is not None:
            given[own] = Given(path, 0 if own == "top_k" and value == -1 else value)
    return given


def _decoded(field: str, data: Any) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise invalid(field, "is not valid UTF-8") from None
