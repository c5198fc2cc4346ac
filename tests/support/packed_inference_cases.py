"""A good call of each RPC of our own inference service."""

from __future__ import annotations

from google.rpc.status_pb2 import Status

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.gateway.v1 import inference_pb2 as pb
from headrace_common.rpc_status import from_status
from support.open_inference_cases import check_answer, request_of
from support.rpc_cases import World, case
from support.toy_language import WORD_BYTES, toy_language_model

PACKED = "headrace.gateway.v1.InferenceService"


def packed_request(world: World, request_id: str) -> pb.InferRequest:
    return pb.InferRequest(request=request_of(world, request_id))


def check_response(world: World, answer: pb.InferResponse, request_id: str) -> None:
    assert answer.response.id == request_id
    check_answer(world, answer.response)
    assert answer.execution.runner in {"runner-0", "runner-1"}
    assert (answer.execution.backend, answer.execution.device_type) == ("onnxruntime", "cpu")
    assert answer.execution.compute_time.ToMicroseconds() > 0


def reason_of(status: Status) -> str:
    return from_status(status).reason


@case(f"{PACKED}/Infer")
def infer(world: World) -> None:
    request = packed_request(world, "seven")
    request.priority = 9
    check_response(world, world.owner(world.owner.packed.Infer, request), "seven")


@case(f"{PACKED}/InferBatch")
def infer_batch(world: World) -> None:
    requests = [packed_request(world, str(number)) for number in range(40)]
    requests[7].request.model_name = "absent"
    wanted = pb.InferBatchRequest(requests=requests, max_concurrency=8)
    results = world.owner(world.owner.packed.InferBatch, wanted).results
    assert len(results) == 40
    assert reason_of(results[7].error) == "MODEL_NOT_FOUND"
    for number in set(range(40)) - {7}:
        check_response(world, results[number].response, str(number))


@case(f"{PACKED}/Stream")
def stream(world: World) -> None:
    # More than a stream takes at once, and nothing is read until all are sent: the rest waits in the transport.
    calls = [pb.StreamCall(id=number, infer=packed_request(world, str(number))) for number in range(3_000)]
    calls[1_000].infer.request.model_name = "absent"
    messages = [pb.StreamRequest(calls=calls[start : start + 300]) for start in range(0, 3_000, 300)]
    first, *rest = world.owner(world.owner.packed.Stream, iter(messages))
    assert (first.limits.calls_max, first.limits.calls_per_message_max) == (1_024, 1_024)
    assert not any(message.HasField("limits") for message in rest)
    answers = [answer for message in (first, *rest) for answer in message.answers]
    assert sorted(answer.id for answer in answers) == list(range(3_000))
    for answer in answers:
        if answer.id == 1_000:
            assert reason_of(answer.error) == "MODEL_NOT_FOUND"
        else:
            check_response(world, answer.infer, str(answer.id))


@case(f"{PACKED}/Generate")
def generate(world: World) -> None:
    # Of a tenant of its own: others have one model.
    owner = world.operator.tenant().admin
    owner.push("words", toy_language_model())
    sampling = generation.SamplingParameters(max_tokens=3, temperature=0)
    request = generation.GenerateRequest(model_name="words", id="seven", text="hello", sampling=sampling)
    messages = list(owner(owner.packed.Generate, request))
    assert [message.id for message in messages] == ["seven"] * len(messages)
    assert [message.model_name for message in messages] == ["words", *[""] * (len(messages) - 1)]
    deltas = [delta for message in messages for delta in message.deltas]
    assert len("".join(delta.text for delta in deltas).encode()) == 3 * WORD_BYTES
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [generation.FINISH_REASON_LENGTH]
    end = messages[-1]
    assert (end.usage.completion_tokens, end.execution.backend) == (3, "llamacpp")
    assert 0 < end.timings.time_to_first_token.ToMicroseconds() < 30_000_000
