"""What the mesh generates becomes OpenAI's answers, whole and in chunks."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from headrace_client import byte_elements
from headrace_client.contracts.headrace.gateway.v1 import generation_pb2 as pb
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import InferResponse
from headrace_client.errors import HeadraceError, ModelError, ValidationError
from headrace_client.failures import MODEL_NOT_FOUND
from headrace_client.model_reference import parse
from headrace_gateway.http.openai.answer_head import AnswerHead
from headrace_gateway.http.openai.chat_answer import ChatAnswer, ChatChunks
from headrace_gateway.http.openai.completion_answer import CompletionAnswer, CompletionChunks
from headrace_gateway.http.openai.embeddings import EmbeddingRequest, answer, infer_requests
from headrace_gateway.http.openai.errors import error_body, in_openai_terms, param_of

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


def head() -> AnswerHead:
    return AnswerHead(id="id-r", created=5, model="m:staging")


def logprob(token: bytes, *others: bytes) -> pb.TokenLogprob:
    top = [pb.TokenLogprob(token_id=9, token=other, logprob=-2) for other in others]
    return pb.TokenLogprob(token_id=8, token=token, logprob=-0.5, top=top)


def delta(text: str, *, index: int = 0, finish: Any = 0, logprobs: Iterable[pb.TokenLogprob] = ()) -> Any:
    return pb.CompletionDelta(index=index, text=text, finish_reason=finish, logprobs=logprobs)


def said(*deltas: pb.CompletionDelta) -> list[pb.GenerateResponse]:
    """A whole stream, a message for each delta."""
    return [
        pb.GenerateResponse(model_name="m", model_version="4", deltas=deltas[:1]),
        *(pb.GenerateResponse(deltas=[each]) for each in deltas[1:]),
        pb.GenerateResponse(
            usage=pb.GenerationUsage(prompt_tokens=3, cached_prompt_tokens=1, completion_tokens=len(deltas))
        ),
    ]


USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 3,
    "total_tokens": 6,
    "prompt_tokens_details": {"cached_tokens": 1},
}
TWO = said(delta("A"), delta("é", index=1, finish=LENGTH), delta("B", finish=STOP))


def test_a_chat_s_chunks_begin_with_the_role_and_end_with_the_reason() -> None:
    chunks = ChatChunks(head(), logprobs=False, includes_usage=True)
    documents = [document for message in TWO for document in chunks.add(message)] + list(chunks.end())
    *parts, last = documents
    assert [(c["index"], c["delta"], c["finish_reason"]) for part in parts for c in part["choices"]] == [
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": "A"}, None),
        (1, {"role": "assistant", "content": ""}, None),
        (1, {"content": "é"}, None),
        (1, {}, "length"),
        (0, {"content": "B"}, None),
        (0, {}, "stop"),
    ]
    assert {(part["id"], part["object"], part["created"], part["model"]) for part in documents} == {
        ("id-r", "chat.completion.chunk", 5, "m:staging")
    }
    assert {part["system_fingerprint"] for part in documents} == {"m:4"}
    assert [part["usage"] for part in parts] == [None] * 7
    assert (last["choices"], last["usage"]) == ([], USAGE)


def test_usage_is_told_to_those_who_ask() -> None:
    chunks = ChatChunks(head(), logprobs=False, includes_usage=False)
    assert not [document for message in TWO for document in chunks.add(message) if "usage" in document]
    assert not list(chunks.end())


def test_a_chat_s_whole_answer() -> None:
    whole = ChatAnswer(head(), logprobs=False)
    for message in TWO:
        whole.add(message)
    document = whole.document()
    assert document["object"] == "chat.completion" and document["usage"] == USAGE
    assert [(c["message"]["content"], c["finish_reason"], c["logprobs"]) for c in document["choices"]] == [
        ("AB", "stop", None),
        ("é", "length", None),
    ]


def test_log_probabilities_of_chats() -> None:
    messages = said(delta("é", logprobs=[logprob(b"\xc3"), logprob(b"\xa9", b"x")], finish=STOP))
    whole, chunks = ChatAnswer(head(), logprobs=True), ChatChunks(head(), logprobs=True, includes_usage=False)
    parts = [document for message in messages for document in chunks.add(message)]
    for message in messages:
        whole.add(message)
    expected = [
        {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3], "top_logprobs": []},
        {
            "token": "\ufffd",
            "logprob": -0.5,
            "bytes": [0xA9],
            "top_logprobs": [{"token": "x", "logprob": -2.0, "bytes": [0x78]}],
        },
    ]
    assert whole.document()["choices"][0]["logprobs"]["content"] == expected
    assert [c["logprobs"] and c["logprobs"]["content"] for part in parts for c in part["choices"]] == [
        None,
        expected,
        None,
    ]


def test_completions_of_several_prompts_are_numbered_prompt_by_prompt() -> None:
    options: dict[str, Any] = {"completions_each": 2, "echoes": ["p", "q"], "logprobs": False}
    chunks = CompletionChunks(head(), **options, includes_usage=True)
    whole = CompletionAnswer(head(), **options)
    parts: list[dict[str, Any]] = []
    for prompt in (1, 0):
        for message in TWO:
            parts += chunks.add(prompt, message)
            whole.add(prompt, message)
    assert [(c["index"], c["text"], c["finish_reason"]) for part in parts for c in part["choices"]] == [
        (2, "qA", None),
        (3, "qé", "length"),
        (2, "B", "stop"),
        (0, "pA", None),
        (1, "pé", "length"),
        (0, "B", "stop"),
    ]
    document = whole.document()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in document["choices"]] == [
        (0, "pAB", "stop"),
        (1, "pé", "length"),
        (2, "qAB", "stop"),
        (3, "qé", "length"),
    ]
    usage = {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}
    (last,) = chunks.end()
    assert document["usage"] == last["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 2}}


def test_log_probabilities_of_completions_tell_places_in_characters() -> None:
    first = delta("aé", logprobs=[logprob(b"a", b"b", b"b"), logprob(b"\xc3"), logprob(b"\xa9")])
    messages = said(first, delta("c", logprobs=[logprob(b"c")], finish=STOP))
    options: dict[str, Any] = {"completions_each": 1, "echoes": [""], "logprobs": True}
    whole, chunks = CompletionAnswer(head(), **options), CompletionChunks(head(), **options, includes_usage=False)
    parts = [document for message in messages for document in chunks.add(0, message)]
    for message in messages:
        whole.add(0, message)
    logprobs = whole.document()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "\ufffd", "\ufffd", "c"],
        "token_logprobs": [-0.5] * 4,
        "top_logprobs": [{"b": -2.0}, {}, {}, {}],
        "text_offset": [0, 1, 1, 2],
    }
    assert [o for part in parts for o in part["choices"][0]["logprobs"]["text_offset"]] == logprobs["text_offset"]


def embedded(vectors: list[list[float]], *, name: str = "embedding", tokens: list[int] | None = None) -> InferResponse:
    message = InferResponse()
    array = np.array(vectors, "<f4")
    message.response.outputs.add(name=name, datatype="FP32", shape=array.shape)
    message.response.raw_output_contents.append(array.tobytes())
    if tokens is not None:
        message.response.outputs.add(name="tokens", datatype="INT32", shape=[len(tokens)])
        message.response.raw_output_contents.append(np.array(tokens, "<i4").tobytes())
    return message


def test_embeddings_are_numbered_over_all_groups() -> None:
    responses = [embedded([[1, 0], [0, 1]], tokens=[2, 3]), embedded([[0.5, 0.5]], tokens=[4])]
    request = EmbeddingRequest(model="e:2", input=["a", "b", "c"], dimensions=2)
    document = answer(request, responses, model=parse("e:2"))
    assert document["model"] == "e:2" and document["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert [(d["index"], d["embedding"]) for d in document["data"]] == [(0, [1, 0]), (1, [0, 1]), (2, [0.5, 0.5])]
    request = EmbeddingRequest(model="e", input=["a"], encoding_format="base64")
    (item,) = answer(request, [embedded([[1, -2]])], model=parse("e"))["data"]
    assert np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist() == [1, -2]


def test_embeddings_that_a_model_does_not_make_are_refused() -> None:
    with pytest.raises(ValidationError, match="vectors have 2") as caught:
        answer(EmbeddingRequest(model="e", input=["a"], dimensions=3), [embedded([[1, 0]])], model=parse("e"))
    assert caught.value.field == "dimensions"
    request = EmbeddingRequest(model="e", input=["a"])
    with pytest.raises(HeadraceError) as other:
        answer(request, [embedded([[1, 0]], name="logits")], model=parse("e"))
    assert other.value.reason == "MODEL_TASK_MISMATCH"


def test_texts_and_tokens_are_embedded_in_groups_of_their_own_in_order() -> None:
    request = EmbeddingRequest(model="e", input=["a", [7, 8], [4_294_967_295], "b"])
    asked = [message.request for message in infer_requests(parse("e:2"), request.input, request_id="r")]
    assert [(one.model_version, one.inputs[0].name, list(one.inputs[0].shape)) for one in asked] == [
        ("2", "text", [1]),
        ("2", "token_ids", [2, 2]),
        ("2", "text", [1]),
    ]
    assert asked[0].raw_input_contents[0] == byte_elements.packed(["a"])
    assert asked[1].raw_input_contents[0] == np.array([[7, 8], [4_294_967_295, -1]], "<i8").tobytes()
    single = EmbeddingRequest(model="e", input=[1, 2, 3])  # pyright: ignore[reportArgumentType] - one list of tokens
    (one,) = infer_requests(parse("e"), single.input, request_id="r")
    assert list(one.request.inputs[0].shape) == [1, 3]
    assert len(list(infer_requests(parse("e"), [[1]] * 33, request_id="r"))) == 3


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.temperature", "temperature"),
        ("sampling.stop[3]", "stop[3]"),
        ("sampling.json_schema", "response_format"),
        ("chat.messages[2].role", "messages[2].role"),
        ("chat", "messages"),
        ("token_ids.ids[3]", "prompt[3]"),
        ("text", "prompt"),
        ("completions", "n"),
        ("session", "prompt_cache_key"),
        ("model_name", "model"),
    ],
)
def test_fields_of_the_mesh_have_openai_s_names(field: str, param: str) -> None:
    assert param_of(field) == param
    error = in_openai_terms(ValidationError(f"{field} is 7; it must be less", field=field))
    assert error_body(error, 400) == {
        "error": {
            "message": f"{param} is 7; it must be less",
            "type": "invalid_request_error",
            "param": param,
            "code": "field_invalid",
        }
    }


def test_words_that_are_no_fields_stay() -> None:
    error = in_openai_terms(ModelError("the model has no chat template", field="chat"))
    assert (error.message, error.field) == ("the model has no chat template", "messages")
    assert in_openai_terms(ValidationError("text is no text", field="text")).message == "prompt is no text"


def test_failures_have_the_codes_that_clients_look_for() -> None:
    error = ModelError("no model 'x'", MODEL_NOT_FOUND)
    assert error_body(error, 404)["error"] | {"message": ""} == {
        "message": "",
        "type": "not_found_error",
        "param": None,
        "code": "model_not_found",
    }
    assert error_body(HeadraceError("?"), 500)["error"]["type"] == "server_error"
