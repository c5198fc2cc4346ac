"""Generation with both clients: order, ends, retries and cancels, over real connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_client import AsyncClient, Client, RetryPolicy
from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import (
    CompletionDelta,
    GenerateRequest,
    GenerateResponse,
    PromptProgress,
    TokenLogprob,
)
from headrace_client.errors import (
    CallCancelled,
    DeadlineError,
    HeadraceError,
    ModelError,
    RunnerError,
    RunnerUnavailable,
    UnreachableError,
    ValidationError,
)
from headrace_common import catalogue
from headrace_common.errors import ModelError as ModelFailure
from headrace_common.errors import RunnerError as RunnerFailure
from headrace_common.errors import RunnerUnavailable as RunnerLost
from headrace_common.errors import ValidationError as Refusal
from support.eventually import eventually
from support.generation_gateway import GenerationGateway, Script, Step, delta, end, generating, sentence

SOON = RetryPolicy(initial_s=0.01, max_s=0.02)
SENTENCE = "The cat sat."


def failing(times: int, failure: Exception, *, then: Script = sentence) -> Script:
    """Fails so many times before anything came, then answers."""
    left = [failure] * times

    def script(request: GenerateRequest) -> Sequence[Step]:
        return [left.pop()] if left else then(request)

    return script


def endless(request: GenerateRequest) -> Sequence[Step]:
    """Two words, then nothing, for ever."""
    return [delta("The", 10), delta(" cat", 11), None]


async def test_deltas_come_in_order_and_add_up() -> None:
    async with generating() as (gateway, address), AsyncClient(address) as client:
        generation = client.generate("m", "Tell", max_tokens=4, timeout_s=50, request_id="r-1")
        assert (generation.text, generation.completions, generation.finish_reason) == ("", [], None)
        deltas = [one async for one in generation]
    assert [one.text for one in deltas] == ["The", " cat", " sat", "."]
    assert [one.finish_reason for one in deltas] == [None, None, None, "length"]
    assert (generation.text, generation.finish_reason, generation.finish_reasons) == (SENTENCE, "length", ["length"])
    assert (generation.model, generation.version) == ("m", "1")
    assert generation.completions[0].token_ids == [10, 11, 12, 13]
    assert generation.usage is not None and generation.timings is not None and generation.execution is not None
    assert (generation.usage.prompt_tokens, generation.usage.cached_prompt_tokens) == (3, 1)
    assert generation.usage.completion_tokens == 4
    assert generation.timings.time_to_first_token_s == pytest.approx(0.02)
    assert (generation.timings.queue_s, generation.timings.generation_s) == (pytest.approx(0.001), pytest.approx(0.3))
    assert (generation.execution.runner, generation.execution.backend) == ("runner-0", "llamacpp")
    (call,) = gateway.calls
    assert (call.metadata["x-request-id"], gateway.requests[0].id, gateway.requests[0].text) == ("r-1", "r-1", "Tell")
    assert 20 < (call.left_s or 0) < 51


async def test_several_completions_are_told_apart() -> None:
    async with generating() as (_, address), AsyncClient(address) as client:
        generation = client.generate("m", [("user", "Tell")], completions=3)
        assert await generation.read() == SENTENCE
    assert [completion.index for completion in generation.completions] == [0, 1, 2]
    assert {completion.text for completion in generation.completions} == {SENTENCE}
    assert generation.finish_reasons == ["stop"] * 3


async def test_log_probabilities_and_progress_are_typed() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        likely = TokenLogprob(token_id=10, token=b"The", logprob=-0.5, top=[TokenLogprob(token_id=9, token=b"\xff")])
        return [
            GenerateResponse(progress=PromptProgress(prompt_tokens=9, computed_tokens=4)),
            GenerateResponse(deltas=[CompletionDelta(text="The", token_ids=[10], logprobs=[likely])]),
            GenerateResponse(deltas=[CompletionDelta(text="\u2028", token_ids=[11], untold_tokens=2)]),
            end(),
        ]

    async with generating(script) as (_, address), AsyncClient(address) as client:
        generation = client.generate("m", [1, 2], top_logprobs=1, report_progress=True)
        first, second, third = [one async for one in generation]
    assert first.progress == (9, 4) and not first.text
    assert second.progress is None
    ((token_id, token, logprob, top),) = second.logprobs
    assert (token_id, token, logprob) == (10, b"The", -0.5)
    assert [(one.token_id, one.token) for one in top] == [(9, b"\xff")]
    assert generation.completions[0].logprobs == list(second.logprobs)
    assert (third.token_ids, third.untold_tokens) == ((11,), 2)
    assert (generation.completions[0].token_ids, generation.completions[0].untold_tokens) == ([10, 11], 2)


async def test_leaving_the_loop_ends_the_call_at_the_mesh() -> None:
    async with generating(endless) as (gateway, address), AsyncClient(address) as client:
        generation = client.generate("m", "Tell")
        async for one in generation:
            assert one.text == "The"
            break
        await eventually(lambda: gateway.cancelled == 1)
        with pytest.raises(CallCancelled):
            await anext(generation)
        assert generation.text == "The"


async def test_closing_dropping_and_cancelling_end_the_call_at_the_mesh() -> None:
    async with generating(endless) as (gateway, address), AsyncClient(address) as client:
        async with client.generate("m", "Tell") as closed:
            assert (await anext(closed)).text == "The"
        await eventually(lambda: gateway.cancelled == 1)
        await closed.aclose()

        dropped = client.generate("m", "Tell")
        await anext(dropped)
        del dropped
        await eventually(lambda: gateway.cancelled == 2)

        cancelled = client.generate("m", "Tell")
        task = asyncio.create_task(cancelled.read())
        await eventually(lambda: cancelled.text == "The cat")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: gateway.cancelled == 3)

        other = client.generate("m", "Tell")
        task = asyncio.create_task(other.read())
        await eventually(lambda: other.text == "The cat")
        await other.aclose()
        with pytest.raises(CallCancelled):
            await task
        await eventually(lambda: gateway.cancelled == 4)


async def test_a_generation_that_was_never_begun_calls_nobody() -> None:
    async with generating() as (gateway, address), AsyncClient(address) as client:
        async with client.generate("m", "Tell") as generation:
            pass
        with pytest.raises(CallCancelled):
            await generation.read()
        assert gateway.calls == []


async def test_closing_the_client_ends_generations_with_an_error_of_their_own() -> None:
    async with generating(endless) as (gateway, address):
        client = AsyncClient(address)
        generation = client.generate("m", "Tell")
        task = asyncio.create_task(generation.read())
        await eventually(lambda: generation.text == "The cat")
        await client.close()
        with pytest.raises(CallCancelled):
            await task
        assert len(gateway.calls) == 1


async def test_a_failure_before_the_first_message_is_retried_within_the_same_deadline() -> None:
    script = failing(2, RunnerLost("gone", retry_after_s=0.2))
    async with generating(script) as (gateway, address), AsyncClient(address, retry=SOON) as client:
        assert await client.generate("m", "Tell", timeout_s=5).read() == SENTENCE
    first, second, third = (call.left_s or 0 for call in gateway.calls)
    assert second < first - 0.15
    assert third < second - 0.15


async def test_a_failure_after_the_first_message_is_never_retried() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [delta("The", 10), RunnerLost("gone")]

    async with generating(script) as (gateway, address), AsyncClient(address, retry=SOON) as client:
        generation = client.generate("m", "Tell")
        with pytest.raises(RunnerUnavailable):
            await generation.read()
        assert generation.text == "The"
        assert generation.usage is None
        assert [one async for one in generation] == []  # It has ended.
    assert len(gateway.calls) == 1


@pytest.mark.parametrize(
    ("failure", "kind", "reason"),
    [
        (Refusal("temperature is 0 to 5", field="sampling.temperature"), ValidationError, "FIELD_INVALID"),
        (ModelFailure("too long", entry=catalogue.CONTEXT_LENGTH_EXCEEDED), ModelError, "CONTEXT_LENGTH_EXCEEDED"),
        (RunnerFailure("lost", entry=catalogue.GENERATION_INTERRUPTED), RunnerError, "GENERATION_INTERRUPTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failure_that_will_stay_is_told_at_once_by_its_type(
    failure: Exception, kind: type[HeadraceError], reason: str
) -> None:
    async with generating(failing(1, failure)) as (gateway, address), AsyncClient(address, retry=SOON) as client:
        with pytest.raises(kind) as caught:
            await client.generate("m", "Tell").read()
    assert (caught.value.reason, caught.value.retryable, len(gateway.calls)) == (reason, False, 1)


async def test_tries_end_with_the_last_failure() -> None:
    script = failing(99, RunnerLost("gone"))
    async with generating(script) as (gateway, address), AsyncClient(address, retry=SOON) as client:
        with pytest.raises(RunnerUnavailable):
            await client.generate("m", "Tell").read()
    assert len(gateway.calls) == 4


async def test_closing_ends_the_pause_before_another_try() -> None:
    script = failing(9, RunnerLost("gone", retry_after_s=50))
    async with generating(script) as (gateway, address), AsyncClient(address, retry=SOON, timeout_s=100) as client:
        generation = client.generate("m", "Tell")
        task = asyncio.create_task(generation.read())
        await eventually(lambda: client._transport.retry_budget._tokens < SOON.tokens_max)
        async with asyncio.timeout(30):
            await generation.aclose()
            with pytest.raises(CallCancelled):
                await task
    assert len(gateway.calls) == 1


async def test_a_generation_ends_by_its_deadline_and_keeps_what_came() -> None:
    async with generating(endless) as (gateway, address), AsyncClient(address, timeout_s=60) as client:
        generation = client.generate("m", "Tell", timeout_s=1)
        with pytest.raises(DeadlineError):
            await generation.read()
        # None where the time was over before the connection was there.
        assert len(gateway.calls) <= 1
    async with AsyncClient("127.0.0.1:9") as client:
        with pytest.raises((DeadlineError, UnreachableError)):
            await client.generate("m", "Tell", timeout_s=0.5).read()


async def test_a_text_without_a_time_of_its_own_has_ten_minutes_whatever_other_calls_have() -> None:
    def use(address: str) -> None:
        with Client(address, timeout_s=5) as client:
            assert client.generate("m", "Tell").read() == client.generate("m", "Tell", timeout_s=700).read()

    async with generating() as (gateway, address), AsyncClient(address, timeout_s=5) as client:
        await client.generate("m", "Tell").read()
        await client.generate("m", "Tell", timeout_s=None).read()
        await asyncio.to_thread(use, address)
    assert [round((call.left_s or 0) / 50) * 50 for call in gateway.calls] == [600, 600, 600, 700]


async def test_threads_share_a_blocking_client() -> None:
    async with generating() as (gateway, address):

        def use() -> list[str]:
            with Client(address) as client, ThreadPoolExecutor(8) as pool:
                texts = list(pool.map(lambda number: client.generate("m", f"Tell {number}").read(), range(40)))
                generation = client.generate("m", [{"role": "user", "content": "Tell"}], max_tokens=4)
                assert [one.text for one in generation] == ["The", " cat", " sat", "."]
                assert (generation.text, generation.finish_reason) == (SENTENCE, "length")
                assert generation.usage is not None and generation.usage.completion_tokens == 4
                return texts

        assert await asyncio.to_thread(use) == [SENTENCE] * 40
    assert {request.text for request in gateway.requests} == {"", *(f"Tell {number}" for number in range(40))}


async def test_leaving_a_blocking_loop_ends_the_call_at_the_mesh() -> None:
    async with generating(endless) as (gateway, address):

        def use(client: Client) -> None:
            kept = client.generate("m", "Tell")
            for one in kept:
                assert one.text == "The"
                break
            with client.generate("m", "Tell") as generation:
                next(generation)
            dropped = client.generate("m", "Tell")
            next(dropped)
            del dropped

        with Client(address) as client:
            await asyncio.to_thread(use, client)
            await eventually(lambda: gateway.cancelled == 3)


async def test_another_thread_may_close_a_blocking_generation() -> None:
    begun = threading.Event()
    async with generating(endless) as (gateway, address):
        with Client(address) as client:
            generation = client.generate("m", "Tell")

            def use() -> None:
                next(generation)
                begun.set()
                with pytest.raises(CallCancelled):
                    generation.read()

            using = asyncio.ensure_future(asyncio.to_thread(use))
            assert await asyncio.to_thread(begun.wait, 30)
            generation.close()
            await using
            await eventually(lambda: gateway.cancelled == 1)


async def test_blocking_failures_and_retries_are_those_of_the_asyncio_client() -> None:
    def use(address: str) -> str:
        with Client(address, retry=SOON) as client:
            with pytest.raises(ModelError, match="no such model"):
                client.generate("m", "Tell").read()
            with pytest.raises(ValidationError):
                client.generate("m", "Tell", max_tokens=-1)
            text = client.generate("m", "Tell").read()
        with pytest.raises(CallCancelled):
            client.generate("m", "Tell").read()
        return text

    left: list[Exception] = [RunnerLost("gone"), ModelFailure("no such model")]

    def script(request: GenerateRequest) -> Sequence[Step]:
        return [left.pop()] if left else sentence(request)

    async with generating(script) as (gateway, address):
        assert await asyncio.to_thread(use, address) == SENTENCE
    assert len(gateway.calls) == 3
    assert isinstance(gateway, GenerationGateway)
