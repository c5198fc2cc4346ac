"""What is sent of what a model gives, and as which messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.v1 import generation_pb2 as pb
from headrace_runner.backends.generation import Finish, Generated, PromptDone, Sampling, TokenLogprob
from headrace_runner.execution.generation.answers import GenerateWriter, Timings, TritonWriter
from headrace_runner.execution.generation.output import Delta, Output, Usage
from headrace_runner.execution.generation.request import GenerationRequest
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.output_form import OutputForm
from inference import open_inference_pb2 as oip

TIMINGS = Timings(queue_s=0.25, first_token_s=0.5, generation_s=2.0)


def output(*, completions: int = 1, prompt_tokens: int = 10) -> Output:
    return Output(completions=completions, prompt_tokens=prompt_tokens)


def generated(text: str, *token_ids: int, finish: Finish | None = None) -> Generated:
    return Generated(text=text, token_ids=token_ids, finish=finish)


def request(**fields: Any) -> GenerationRequest:
    values: dict[str, Any] = {"id": "r", "prompt": "hi", "sampling": Sampling(max_tokens=5, seed=1), **fields}
    return GenerationRequest(**values)


def test_what_came_since_the_last_message_is_one_delta() -> None:
    out = output()
    out.take(0, generated("a", 1), 1.0)
    out.take(0, generated("b", 2, 3), 1.1)
    assert out.drain() == [Delta(0, "ab", [1, 2, 3], [], None)]
    assert not out.due
    assert out.drain() == []


def test_tokens_that_nobody_can_name_are_told_by_their_number() -> None:
    out = output()
    out.take(0, Generated(text="", token_ids=[1], untold_tokens=1), 1.0)
    assert not out.due
    out.take(0, Generated(text="\u00e4", token_ids=[2], untold_tokens=2), 1.1)
    (delta,) = out.drain()
    assert (delta.token_ids, delta.untold_tokens) == ([1, 2], 3)
    assert out.usage.completion_tokens == 5
    writer = GenerateWriter(request=request(), model_name="m", model_version="3")
    assert pb.GenerateResponse.FromString(writer.part([delta], None) or b"").deltas[0].untold_tokens == 3
    out.take(0, generated("b", 3, finish=Finish.STOP), 1.2)
    assert out.drain() == [Delta(0, "b", [3], [], Finish.STOP)]


def test_tokens_are_sent_with_the_text_that_they_belong_to() -> None:
    out = output()
    out.take(0, generated("", 1), 1.0)
    assert not out.due
    out.take(0, generated("\u00e4", 2), 1.1)
    assert out.drain() == [Delta(0, "\u00e4", [1, 2], [], None)]
    out.take(0, generated("", 3), 1.2)
    assert out.drain() == []
    out.take(0, generated("", finish=Finish.STOP), 1.3)
    assert out.drain() == [Delta(0, "", [3], [], Finish.STOP)]


def test_a_token_whose_text_is_held_back_waits_for_it_though_others_go() -> None:
    out = output()
    out.take(0, generated("a", 1), 1.0)
    out.take(0, generated("", 2), 1.1)
    assert out.drain() == [Delta(0, "a", [1], [], None)]
    out.take(0, generated("bc", 3), 1.2)
    assert out.drain() == [Delta(0, "bc", [2, 3], [], None)]


def test_completions_end_each_for_itself_and_once() -> None:
    out = output(completions=2)
    out.take(1, generated("x", 1, finish=Finish.LENGTH), 1.0)
    assert not out.finished
    assert out.drain() == [Delta(1, "x", [1], [], Finish.LENGTH)]
    out.take(0, generated("y", 2, finish=Finish.STOP), 1.0)
    assert out.finished
    assert [delta.completion for delta in out.drain()] == [0]


def test_what_is_unsent_is_about_as_large_as_its_message() -> None:
    out = output()
    top = tuple(TokenLogprob(n, b"token", -1.0) for n in range(20))
    for _ in range(10):
        logprobs = [TokenLogprob(70_000, b"\xc3", -0.5, top)]
        out.take(0, Generated(text="\U0001f642", token_ids=[70_000], logprobs=logprobs), 1.0)
    unsent = out.unsent_bytes
    part = GenerateWriter(request=request(), model_name="m", model_version="3").part(out.drain(), None)
    assert part is not None
    assert len(part) <= unsent <= 4 * len(part)
    assert out.unsent_bytes == 0


def test_a_prompt_counts_once_and_tokens_of_all_completions() -> None:
    out = output(completions=2)
    for number in range(2):
        out.computed(PromptDone(computed_tokens=10, cached_tokens=4))
        out.take(number, generated("x", 1, 2), 1.0)
    assert out.usage == Usage(10, 4, 4)


def test_tokens_that_the_caller_had_are_no_part_of_the_prompt() -> None:
    out = output()
    out.computed(PromptDone(computed_tokens=14, cached_tokens=13))
    assert out.drain_progress() == 10
    assert out.usage == Usage(10, 10, 0)


def test_progress_is_told_when_there_is_some_and_never_after_the_first_token() -> None:
    out = output()
    assert out.drain_progress() is None
    out.computed(PromptDone(computed_tokens=4, cached_tokens=0))
    assert out.due
    assert (out.drain_progress(), out.drain_progress()) == (4, None)
    out.computed(PromptDone(computed_tokens=4, cached_tokens=0))
    assert out.drain_progress() is None
    out.computed(PromptDone(computed_tokens=10, cached_tokens=0))
    out.take(0, generated("", 1), 1.0)
    assert not out.due
    out.computed(PromptDone(computed_tokens=10, cached_tokens=0))
    assert out.drain_progress() is None


def test_the_time_between_tokens_is_that_of_one_completion() -> None:
    out = output(completions=2)
    assert out.take(0, generated("a", 1), 1.0) is None
    assert out.take(1, generated("a", 1), 5.0) is None
    assert out.take(0, generated("bc", 2, 3), 6.0) == pytest.approx(2.5)
    assert out.take(0, generated("", finish=Finish.STOP), 9.0) is None
    assert (out.first_token_s, out.last_token_s) == (1.0, 6.0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text(max_size=2), st.lists(st.integers(0, 9), max_size=3), st.booleans()))
)
def test_everything_is_sent_once_and_in_order(steps: list[tuple[int, str, list[int], bool]]) -> None:
    out = output(completions=3)
    sent: list[Delta] = []
    for number, text, token_ids, drains in steps:
        out.take(number, generated(text, *token_ids), 1.0)
        if drains:
            sent += out.drain()
    out.finish_all()
    sent += out.drain()
    for number in range(3):
        own = [delta for delta in sent if delta.completion == number]
        assert "".join(delta.text for delta in own) == "".join(step[1] for step in steps if step[0] == number)
        tokens = [token for delta in own for token in delta.token_ids]
        assert tokens == [token for step in steps if step[0] == number for token in step[2]]
        assert [delta.finish for delta in own] == [None] * (len(own) - 1) + [Finish.LENGTH]


def test_the_first_message_names_the_model_and_the_last_one_has_the_usage() -> None:
    writer = GenerateWriter(request=request(), model_name="m", model_version="3")
    logprob = TokenLogprob(7, b"\xc3", -0.5, (TokenLogprob(8, b"b", -1.5),))
    part = writer.part([Delta(0, "a", [7], [logprob], None)], None)
    assert part is not None
    assert pb.GenerateResponse.FromString(part) == pb.GenerateResponse(
        id="r",
        model_name="m",
        model_version="3",
        deltas=[
            pb.CompletionDelta(
                text="a",
                token_ids=[7],
                logprobs=[
                    pb.TokenLogprob(
                        token_id=7,
                        token=b"\xc3",
                        logprob=-0.5,
                        top=[pb.TokenLogprob(token_id=8, token=b"b", logprob=-1.5)],
                    )
                ],
            )
        ],
    )
    assert writer.part([], None) is None
    last = pb.GenerateResponse.FromString(writer.end([Delta(0, "b", [8], [], Finish.STOP)], Usage(4, 1, 2), TIMINGS))
    assert (last.id, last.model_name, last.deltas[0].finish_reason) == ("r", "", pb.FINISH_REASON_STOP)
    assert last.usage == pb.GenerationUsage(prompt_tokens=4, cached_prompt_tokens=1, completion_tokens=2)
    assert last.timings.queue_time.ToMilliseconds() == 250
    assert last.timings.time_to_first_token.ToMilliseconds() == 500
    assert last.timings.generation_time.ToMilliseconds() == 2_000
    assert not last.HasField("execution")


def test_progress_is_a_message_of_its_own_call() -> None:
    writer = GenerateWriter(request=request(), model_name="m", model_version="3")
    part = writer.part([], pb.PromptProgress(prompt_tokens=9, computed_tokens=4))
    assert part is not None
    message = pb.GenerateResponse.FromString(part)
    assert (message.model_name, message.progress.computed_tokens) == ("m", 4)


def triton(part: bytes | None) -> tuple[list[bytes], dict[str, oip.InferParameter]]:
    assert part is not None
    response = oip.ModelInferResponse.FromString(part)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "r")
    (out,) = response.outputs
    assert (out.name, out.datatype) == ("text_output", "BYTES")
    if not response.raw_output_contents:
        texts = list(out.contents.bytes_contents)
    else:
        (raw,) = response.raw_output_contents
        texts = []
        while raw:
            size = int.from_bytes(raw[:4], "little")
            texts.append(raw[4 : 4 + size])
            raw = raw[4 + size :]
    assert list(out.shape) == [len(texts)]
    return texts, dict(response.parameters)


def triton_writer(**fields: Any) -> TritonWriter:
    return TritonWriter(request=request(**fields), tensors=ResponseWriter(model_name="m", model_version="3"))


def test_triton_is_told_text_by_text_and_which_one_is_final() -> None:
    writer = triton_writer()
    texts, parameters = triton(writer.part([Delta(0, "\u00e4", [1], [], None)], None))
    assert texts == ["\u00e4".encode()]
    assert not parameters["triton_final_response"].bool_param
    assert writer.part([], pb.PromptProgress(prompt_tokens=9, computed_tokens=4)) is None
    texts, parameters = triton(writer.end([Delta(0, "", [], [], Finish.LENGTH)], Usage(4, 1, 2), TIMINGS))
    assert texts == [b""]
    assert parameters["triton_final_response"].bool_param
    assert parameters["finish_reason"].string_param == "length"
    assert (parameters["prompt_tokens"].int64_param, parameters["completion_tokens"].int64_param) == (4, 2)


def test_triton_has_one_text_for_each_completion() -> None:
    writer = triton_writer(completions=3)
    assert triton(writer.part([Delta(1, "x", [1], [], Finish.STOP)], None))[0] == [b"", b"x", b""]
    last = [Delta(0, "y", [1], [], Finish.LENGTH), Delta(2, "z", [1], [], Finish.STOP)]
    texts, parameters = triton(writer.end(last, Usage(1, 0, 3), TIMINGS))
    assert texts == [b"y", b"", b"z"]
    assert parameters["finish_reason"].string_param == "length,stop,stop"


def test_a_whole_text_may_begin_with_the_prompt_and_be_typed() -> None:
    form = OutputForm(typed=True, classes={})
    writer = triton_writer(streams=False, echo="hi", form=form)
    assert triton(writer.end([Delta(0, " there", [1], [], Finish.STOP)], Usage(1, 0, 1), TIMINGS))[0] == [b"hi there"]
