"""Bad requests for text of a language model, by its own call and as Triton's clients ask."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1 import inference_pb2
from headrace_common import catalogue as errors
from headrace_common.catalogue import CatalogueEntry
from inference import open_inference_pb2 as oip
from support.bad_calls import SUM, Case, World, bad, infer
from support.bad_extensions import MALFORMED, number, streaming, text
from support.generation import Tensor, asking, chatting, decoupled
from support.parties import Party

TOY = "toy"
"""The table's language model, of whose tenant `acme` is."""
SLOTS, CONTEXT = 4, 512
PATH = "/headrace.gateway.v1.InferenceService/Generate"
LONG = "x" * (1 << 20)


def generate(party: Party, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    """All that a request gets."""
    return list(party(party.packed.Generate, request))


def good(**fields: Any) -> pb.GenerateRequest:
    """A request that is right but for these fields of it."""
    values: dict[str, Any] = {"model_name": TOY, "sampling": pb.SamplingParameters(max_tokens=2), **fields}
    if not {"text", "token_ids", "chat"} & fields.keys():
        values["text"] = "hello"
    return pb.GenerateRequest(**values)


def refused(request: pb.GenerateRequest, entry: CatalogueEntry, field: str | None = None, *says: str) -> Case:
    return bad(lambda world: generate(world.acme, request), entry, field, *says)


def sampled(says: str, **sampling: Any) -> Case:
    """One parameter out of its range, which the answer states."""
    (name,) = sampling
    return refused(asking("hello", model=TOY, **sampling), errors.FIELD_INVALID, f"sampling.{name}", says)


def streamed(request: oip.ModelInferRequest, entry: CatalogueEntry, field: str | None = None, *says: str) -> Case:
    return bad(lambda world: streaming(world.acme, request), entry, field, *says)


def with_json(parameters: object) -> oip.ModelInferRequest:
    """Triton's form with this in place of the sampling parameters."""
    said = parameters if isinstance(parameters, bytes) else json.dumps(parameters).encode()
    return decoupled(b"hello", model=TOY, parameters=said)


def with_parameter(name: str, value: oip.InferParameter) -> oip.ModelInferRequest:
    request = decoupled(b"hello", model=TOY)
    request.parameters[name].CopyFrom(value)
    return request


def malformed(world: World) -> object:
    """A string of the message that isn't UTF-8."""
    body = b"\x0a\x03toy\x22\x02\xff\xfe"
    call: Any = world.acme.channel.unary_stream(  # pyright: ignore[reportUnknownVariableType]
        PATH, request_serializer=bytes, response_deserializer=bytes
    )
    return list(world.acme(call, body))


RANGES = {
    "no tokens at all": sampled("1", max_tokens=0),
    "cold": sampled("0 to 5", temperature=-0.1),
    "hot": sampled("0 to 5", temperature=5.5),
    "no temperature": sampled("0 to 5", temperature=nan),
    "endlessly hot": sampled("0 to 5", temperature=inf),
    "none of the likeliest": sampled("1", top_p=0.0),
    "more than all": sampled("1", top_p=1.5),
    "more than there are": sampled("100000", top_k=100_001),
    "less than never": sampled("0 to 1", min_p=-0.5),
    "likelier than sure": sampled("0 to 1", min_p=1.5),
    "repetition is free": sampled("5", repetition_penalty=0.0),
    "repetition is deadly": sampled("5", repetition_penalty=6.0),
    "presence below its range": sampled("-2 to 2", presence_penalty=-2.5),
    "presence above its range": sampled("-2 to 2", presence_penalty=2.5),
    "frequency below its range": sampled("-2 to 2", frequency_penalty=-2.5),
    "frequency above its range": sampled("-2 to 2", frequency_penalty=2.5),
    "bias out of its range": refused(
        asking("hello", model=TOY, logit_bias={5: 101.0}),
        errors.FIELD_INVALID,
        "sampling.logit_bias[5]",
        "-100 to 100",
    ),
    "bias of no number": refused(
        asking("hello", model=TOY, logit_bias={5: nan}), errors.FIELD_INVALID, "sampling.logit_bias[5]", "-100 to 100"
    ),
    "bias of a token that isn't": refused(
        asking("hello", model=TOY, logit_bias={1 << 20: 1.0}), errors.FIELD_INVALID, "sampling.logit_bias"
    ),
    "biases without end": refused(
        asking("hello", model=TOY, logit_bias=dict.fromkeys(range(1_025), 1.0)),
        errors.FIELD_TOO_LONG,
        "sampling.logit_bias",
        "1024",
    ),
    "stop text of 1 MB": refused(
        asking("hello", model=TOY, stop=[LONG]), errors.FIELD_TOO_LONG, "sampling.stop[0]", "256"
    ),
    "stop texts without end": refused(
        asking("hello", model=TOY, stop=[str(index) for index in range(17)]),
        errors.FIELD_TOO_LONG,
        "sampling.stop",
        "16",
    ),
    "stop text of nothing": refused(
        asking("hello", model=TOY, stop=["x", ""]), errors.FIELD_INVALID, "sampling.stop[1]"
    ),
    "alternatives without end": refused(good(top_logprobs=21), errors.FIELD_INVALID, "top_logprobs", "20"),
    "more completions than slots": refused(
        good(completions=SLOTS + 1), errors.FIELD_INVALID, "completions", str(SLOTS)
    ),
    "priority above the scale": refused(good(priority=10), errors.FIELD_INVALID, "priority", "0 to 9"),
    "session of a long name": refused(good(session="x" * 129), errors.FIELD_TOO_LONG, "session", "128"),
    "identifier of a long name": refused(good(id="x" * 257), errors.FIELD_TOO_LONG, "id", "256"),
}

PROMPTS = {
    "prompt beyond the context": refused(
        good(text="x" * (CONTEXT + 1)), errors.CONTEXT_LENGTH_EXCEEDED, None, str(CONTEXT)
    ),
    "tokens beyond the context": refused(
        good(token_ids=pb.TokenIds(ids=[5] * (CONTEXT + 1))), errors.CONTEXT_LENGTH_EXCEEDED, None, str(CONTEXT)
    ),
    "no prompt": refused(
        pb.GenerateRequest(model_name=TOY, sampling=pb.SamplingParameters(max_tokens=1)),
        errors.FIELD_REQUIRED,
        "prompt",
    ),
    "text of nothing": refused(good(text=""), errors.FIELD_REQUIRED, "text"),
    "no tokens": refused(good(token_ids=pb.TokenIds()), errors.FIELD_REQUIRED, "token_ids.ids"),
    "token that isn't": refused(
        good(token_ids=pb.TokenIds(ids=[5, 1 << 31])), errors.FIELD_INVALID, "token_ids.ids[1]"
    ),
    "conversation of nothing": refused(chatting([], model=TOY), errors.FIELD_REQUIRED, "chat.messages"),
    "conversation without end": refused(
        chatting([("user", "x")] * 1_025, model=TOY), errors.FIELD_TOO_LONG, "chat.messages", "1024"
    ),
    "unknown role": refused(
        chatting([("user", "x"), ("wizard", "y")], model=TOY),
        errors.FIELD_INVALID,
        "chat.messages[1].role",
        "system",
        "assistant",
    ),
    "conversation with a model that has no template": refused(
        chatting([("user", "x")], model=TOY), errors.CHAT_TEMPLATE_FAILED, "chat"
    ),
}

CONSTRAINTS = {
    "schema that is no JSON": refused(
        asking("hello", model=TOY, json_schema="{"), errors.CONSTRAINT_INVALID, "sampling.json_schema"
    ),
    "schema of an unknown type": refused(
        asking("hello", model=TOY, json_schema='{"type": "wizard"}'), errors.CONSTRAINT_INVALID, "sampling.json_schema"
    ),
    "schema that points nowhere": refused(
        asking("hello", model=TOY, json_schema='{"$ref": "#/absent"}'),
        errors.CONSTRAINT_INVALID,
        "sampling.json_schema",
    ),
    "schema of 1 MB": refused(
        asking("hello", model=TOY, json_schema=json.dumps({"type": "string", "title": LONG})),
        errors.FIELD_TOO_LONG,
        "sampling.json_schema",
        "65",
    ),
    "grammar that is none": refused(
        asking("hello", model=TOY, grammar="root ::= ("), errors.CONSTRAINT_INVALID, "sampling.grammar"
    ),
    "grammar without a root": refused(
        asking("hello", model=TOY, grammar='leaf ::= "x"'), errors.CONSTRAINT_INVALID, "sampling.grammar"
    ),
    "grammar of 1 MB": refused(
        asking("hello", model=TOY, grammar=f'root ::= "{LONG}"'), errors.FIELD_TOO_LONG, "sampling.grammar", "16384"
    ),
}

CALLERS = {
    "unknown model, Generate": refused(good(model_name="absent"), errors.MODEL_NOT_FOUND, None, "'absent'"),
    "no model, Generate": refused(good(model_name=""), errors.FIELD_REQUIRED, "model_name"),
    "unknown version, Generate": refused(good(model_version="99"), errors.MODEL_VERSION_NOT_FOUND, None, TOY, "99"),
    "Generate with a model of tensors": refused(good(model_name=SUM), errors.MODEL_TASK_MISMATCH, None, SUM),
    "ModelInfer with a model that generates": bad(
        lambda world: world.acme.infer(decoupled(b"hello", model=TOY)), errors.MODEL_TASK_MISMATCH, None, TOY
    ),
    "Infer with a model that generates": bad(
        lambda world: world.acme(
            world.acme.packed.Infer, inference_pb2.InferRequest(request=decoupled(b"hello", model=TOY))
        ),
        errors.MODEL_TASK_MISMATCH,
        None,
        TOY,
    ),
    "viewer generates": bad(lambda world: generate(world.viewer, good()), errors.ROLE_FORBIDDEN, None, "'user'"),
    "text that isn't UTF-8": bad(malformed, errors.REQUEST_MALFORMED),
    "malformed bytes for Generate": bad(
        lambda world: list(world.acme(world.acme.channel.unary_stream(PATH), MALFORMED)), errors.REQUEST_MALFORMED
    ),
}

DECOUPLED = {
    "text_input that isn't UTF-8": streamed(
        decoupled(b"\xff\xfe", model=TOY), errors.FIELD_INVALID, "text_input", "UTF-8"
    ),
    "text_input of nothing": streamed(decoupled(b"", model=TOY), errors.FIELD_REQUIRED, "text_input"),
    "text_input beyond the context": streamed(
        decoupled(b"x" * (CONTEXT + 1), model=TOY), errors.CONTEXT_LENGTH_EXCEEDED, None, str(CONTEXT)
    ),
    "no text_input": streamed(infer(raw=(), model_name=TOY), errors.TENSOR_NAME_UNKNOWN, "inputs[0].name"),
    "text_input of numbers": streamed(
        oip.ModelInferRequest(
            model_name=TOY,
            inputs=[Tensor(name="text_input", datatype="FP32", shape=[1])],
            raw_input_contents=[bytes(4)],
        ),
        errors.TENSOR_DATATYPE_MISMATCH,
        "inputs[0].datatype",
        "BYTES",
    ),
    "sampling parameters that are no JSON": streamed(with_json(b"{"), errors.FIELD_INVALID, "sampling_parameters"),
    "sampling parameters that are a list": streamed(with_json([1]), errors.FIELD_INVALID, "sampling_parameters"),
    "unknown sampling parameter": streamed(
        with_json({"warmth": 1}), errors.PARAMETER_INVALID, "sampling_parameters.warmth"
    ),
    "temperature in words": streamed(
        with_json({"temperature": "hot"}), errors.FIELD_INVALID, "sampling_parameters.temperature"
    ),
    "temperature out of its range": streamed(
        with_json({"temperature": 9}), errors.FIELD_INVALID, "sampling_parameters.temperature", "0 to 5"
    ),
    "n beyond the slots": streamed(
        with_json({"n": SLOTS + 1}), errors.FIELD_INVALID, "sampling_parameters.n", str(SLOTS)
    ),
    "parameter out of its range": streamed(
        with_parameter("top_k", number(100_001)), errors.FIELD_INVALID, "parameters.top_k", "100000"
    ),
    "parameter in words": streamed(
        with_parameter("max_tokens", text("many")), errors.FIELD_INVALID, "parameters.max_tokens"
    ),
}

GENERATIONS = RANGES | PROMPTS | CONSTRAINTS | CALLERS | DECOUPLED
