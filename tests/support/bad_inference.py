"""Bad requests for our own inference service: unary, in a batch, and what ends a packed stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.rpc.status_pb2 import Status

from headrace.gateway.v1 import inference_pb2 as pb
from headrace_common import catalogue as errors
from support.bad_calls import Case, World, bad, calling, infer
from support.bad_extensions import MALFORMED, number, text, with_parameters
from support.parties import Party

PACKED = "/headrace.gateway.v1.InferenceService"
CAP = 64 << 20


def packed(*calls: pb.StreamCall, cancels: tuple[int, ...] = ()) -> Callable[[World], object]:
    """One message on a stream."""
    return lambda world: world.acme(world.acme.packed.Stream, iter([pb.StreamRequest(calls=calls, cancels=cancels)]))


def packed_bytes(message: bytes) -> Callable[[World], list[Any]]:
    """Any bytes as the first message on a stream."""

    def send(world: World) -> list[Any]:
        call: Any = world.acme.channel.stream_stream(f"{PACKED}/Stream")  # pyright: ignore[reportUnknownVariableType]
        return list(world.acme(call, iter([message])))

    return send


def only_answer(party: Party, call: pb.StreamCall) -> Status:
    """How a stream answers one call that fails."""
    messages = list(party(party.packed.Stream, iter([pb.StreamRequest(calls=[call])])))
    (answer,) = [answer for message in messages for answer in message.answers]
    assert answer.id == call.id
    return answer.error


def only_result(party: Party, request: pb.InferRequest) -> Status:
    """How a batch answers one request that fails."""
    (result,) = party(party.packed.InferBatch, pb.InferBatchRequest(requests=[request])).results
    return result.error


ABSENT = pb.InferRequest(request=infer(model_name="absent"))

PACKED_INFERENCES: dict[str, Case] = (
    {
        "unknown model, our own Infer": calling("packed", "Infer", ABSENT, errors.MODEL_NOT_FOUND, None, "'absent'"),
        "Infer of nothing": calling("packed", "Infer", pb.InferRequest(), errors.FIELD_REQUIRED, "model_name"),
        "priority above the scale": calling(
            "packed", "Infer", pb.InferRequest(request=infer(), priority=10), errors.FIELD_INVALID, "priority", "0 to 9"
        ),
        "batch of nothing": calling("packed", "InferBatch", pb.InferBatchRequest(), errors.FIELD_REQUIRED, "requests"),
        "batch without end": calling(
            "packed",
            "InferBatch",
            pb.InferBatchRequest(requests=[ABSENT] * 1_025),
            errors.FIELD_TOO_LONG,
            "requests",
            "more than 1024",
        ),
        "viewer runs a batch": bad(
            lambda world: world.viewer(world.viewer.packed.InferBatch, pb.InferBatchRequest(requests=[ABSENT])),
            errors.ROLE_FORBIDDEN,
            None,
            "'user'",
        ),
        "viewer opens a packed stream": bad(
            lambda world: list(world.viewer(world.viewer.packed.Stream, iter([pb.StreamRequest()]))),
            errors.ROLE_FORBIDDEN,
            None,
            "'user'",
        ),
        "identifier in flight": bad(
            packed(pb.StreamCall(id=7, infer=ABSENT), pb.StreamCall(id=7, infer=ABSENT)),
            errors.CALL_ID_IN_USE,
            "calls[1].id",
            "7",
        ),
        "100,000 tiny calls in a message": bad(
            packed(*[pb.StreamCall(id=number) for number in range(100_000)]),
            errors.FIELD_TOO_LONG,
            "calls",
            "more than 1024",
        ),
        "malformed bytes on a packed stream": bad(packed_bytes(MALFORMED), errors.REQUEST_MALFORMED),
        "above the cap on a packed stream": bad(
            packed_bytes(bytes(CAP + (1 << 20) + 1)), errors.MESSAGE_TOO_LARGE, None, str(CAP + (1 << 20))
        ),
    }
    | {
        f"{parameter} {kind}": calling(
            "inference",
            "ModelInfer",
            with_parameters(**{parameter: value}),
            errors.PARAMETER_INVALID,
            f"parameters.{parameter}",
            "whole number",
        )
        for parameter in ("priority", "timeout")
        for kind, value in (("in words", text("high")), ("below zero", number(-1)))
    }
    | {
        f"malformed bytes for {method}": bad(
            lambda world, path=f"{PACKED}/{method}": world.acme.raw(path, MALFORMED), errors.REQUEST_MALFORMED
        )
        for method in ("Infer", "InferBatch")
    }
)
