"""What runners say while they generate, for tests that speak for them."""

from __future__ import annotations

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2

GENERATES = manifest_pb2.Manifest(backend="onnxruntime", task=manifest_pb2.MODEL_TASK_GENERATE)


def delta(
    text: str,
    *token_ids: int,
    finish: generation.FinishReason.ValueType = generation.FINISH_REASON_UNSPECIFIED,
    untold: int = 0,
) -> bytes:
    """A part with a piece of the first completion."""
    piece = generation.CompletionDelta(text=text, token_ids=token_ids, finish_reason=finish, untold_tokens=untold)
    return generation.GenerateResponse(id="g", deltas=[piece]).SerializeToString()


def progress(computed: int, *, of: int = 100) -> bytes:
    """A part that tells how far the prompt has been computed."""
    done = generation.PromptProgress(prompt_tokens=of, computed_tokens=computed)
    return generation.GenerateResponse(id="g", progress=done).SerializeToString()


def last(text: str = "", *token_ids: int, prompt: int = 3, cached: int = 1, completion: int = 0) -> bytes:
    """The last part."""
    usage = generation.GenerationUsage(
        prompt_tokens=prompt, cached_prompt_tokens=cached, completion_tokens=completion or len(token_ids)
    )
    end = generation.CompletionDelta(text=text, token_ids=token_ids, finish_reason=generation.FINISH_REASON_STOP)
    message = generation.GenerateResponse(id="g", deltas=[end], usage=usage)
    message.timings.time_to_first_token.FromMilliseconds(7)
    return message.SerializeToString()


def asked(call: mesh_pb2.Call) -> mesh_pb2.GenerateCall:
    """What a call asks for."""
    assert call.kind == mesh_pb2.CALL_KIND_GENERATE
    return mesh_pb2.GenerateCall.FromString(call.payload)
