"""`headrace generate`, `chat` and `embed` as processes beside a gateway whose answers are written down."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import (
    FINISH_REASON_STOP,
    GenerateRequest,
    SamplingParameters,
    TokenLogprob,
)
from headrace_common import catalogue
from headrace_common.errors import ModelError, RunnerError
from support.eventually import eventually
from support.generation_gateway import Script, Step, delta, end, generating, sentence
from support.headrace_command import Done, Headrace
from support.mesh import HEADRACE
from support.scripted_mesh import ScriptedMesh, serving

SENTENCE = "The cat sat."


async def ended(
    *arguments: str, script: Script = sentence, status: int = 0, stdin: str | bytes = ""
) -> tuple[Done, list[GenerateRequest]]:
    """The command as a process, and what it asked."""
    async with generating(script) as (gateway, address):
        command = Headrace(environment={"HEADRACE_ENDPOINT": address})
        done = await asyncio.to_thread(command.process, *arguments, status=status, stdin=stdin)
        return done, gateway.requests


async def test_words_are_printed_and_every_flag_reaches_the_mesh(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    done, (request,) = await ended(
        *("generate", "m:3", "Tell", "--max-tokens", "4", "--temperature", "0.5", "--top-p", "0.25", "--top-k", "40"),
        *("--min-p", "0.125", "--repetition-penalty", "1.5", "--presence-penalty", "-0.5", "--frequency-penalty", "2"),
        *("--stop", r"\n\n", "--stop", "END", "--seed", "7", "--logit-bias", "5=-100", "--ignore-end"),
        *("--json-schema", f"@{schema}", "--session", "s", "--priority", "9", "--no-continue-elsewhere"),
        *("--request-id", "r-1", "--stats"),
    )
    assert done.stdout == SENTENCE + "\n"
    assert "4 tokens; " in done.stderr and "prompt of 3 tokens, 1 of them cached" in done.stderr
    assert "ended by length; on runner-0 (llamacpp, cpu)" in done.stderr
    sampling = request.sampling
    assert (request.model_name, request.model_version, request.id, request.text) == ("m", "3", "r-1", "Tell")
    assert (request.session, request.priority, request.continue_elsewhere) == ("s", 9, False)
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (4, 0.5, 0.25, 40)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-0.5, 2)
    assert (list(sampling.stop), sampling.seed, dict(sampling.logit_bias)) == (["\n\n", "END"], 7, {5: -100.0})
    assert (sampling.ignore_end, sampling.json_schema) == (True, '{"type": "object"}')


async def test_nothing_is_asked_that_was_not_said_but_an_end_to_what_may_have_none() -> None:
    done, (request,) = await ended("generate", "m", "Tell")
    assert (done.stdout, done.stderr) == (SENTENCE + "\n", "")
    assert request == GenerateRequest(model_name="m", text="Tell", sampling=SamplingParameters(max_tokens=256))


async def test_the_prompt_may_come_from_standard_input_and_be_a_conversation() -> None:
    for arguments in (("-",), ()):
        _, (request,) = await ended("generate", "m", *arguments, stdin="Once\n")
        assert request.text == "Once"
    _, (request,) = await ended("generate", "m", "Hi", "--system", "Be brief")
    assert [(one.role, one.content) for one in request.chat.messages] == [("system", "Be brief"), ("user", "Hi")]


async def test_json_is_one_document_with_all_that_came() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        first = delta("The", 10, finish=FINISH_REASON_STOP)
        first.deltas[0].logprobs.add(token_id=10, token=b"\xff", logprob=-0.5, top=[TokenLogprob(token_id=9)])
        return [first, end(tokens=1)]

    done, (request,) = await ended("generate", "m", "Tell", "--top-logprobs", "1", "--json", script=script)
    assert (request.HasField("top_logprobs"), request.top_logprobs) == (True, 1)
    (completion,) = done.document["completions"]
    assert (completion["text"], completion["token_ids"], completion["finish_reason"]) == ("The", [10], "stop")
    (likely,) = completion["logprobs"]
    assert (likely["token_id"], likely["bytes"], likely["logprob"], len(likely["top"])) == (10, [255], -0.5, 1)
    assert done.document["usage"] == {"prompt_tokens": 3, "cached_prompt_tokens": 1, "completion_tokens": 1}
    assert done.document["timings"]["time_to_first_token_s"] == 0.02
    assert done.document["execution"]["runner"] == "runner-0"


async def test_several_completions_are_printed_one_by_one() -> None:
    done, _ = await ended("generate", "m", "Tell", "-n", "2")
    assert done.stdout == f"[0] {SENTENCE}\n[1] {SENTENCE}\n"


async def test_what_came_before_a_failure_is_kept() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [delta("The", 10), RunnerError("the runner was lost", entry=catalogue.GENERATION_INTERRUPTED)]

    done, _ = await ended("generate", "m", "Tell", script=script, status=1)
    assert done.stdout == "The\n"
    assert "the runner was lost" in done.stderr and "RUNNER_013" in done.stderr and "Ask again" in done.stderr
    done, _ = await ended("generate", "m", "Tell", "--json", script=script, status=1)
    assert done.document["completions"][0]["text"] == "The"
    several, _ = await ended("generate", "m", "Tell", "-n", "2", script=script, status=1)
    assert several.stdout == "[0] The\n"
    assert done.error["reason"] == "GENERATION_INTERRUPTED"


async def test_a_refusal_says_what_to_do() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [ModelError("'m' doesn't generate", entry=catalogue.MODEL_TASK_MISMATCH)]

    done, _ = await ended("generate", "m", "Tell", script=script, status=1)
    assert done.stdout == ""
    assert "headrace models show" in done.stderr


async def test_ctrl_c_ends_it_at_the_mesh_and_keeps_what_was_printed() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [delta("The", 10), None]

    for flags, shown in (((), b"The"), (("--json",), b"")):
        async with generating(script) as (gateway, address):
            command = await asyncio.create_subprocess_exec(
                *(str(HEADRACE), "generate", "m", "Tell", "--endpoint", address, *flags),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=Headrace().variables(),
            )
            assert command.stdout is not None
            await eventually(lambda: bool(gateway.requests))
            assert await command.stdout.read(len(shown)) == shown
            command.send_signal(signal.SIGINT)
            out, problems = await asyncio.wait_for(command.communicate(), 60)
            assert (command.returncode, problems) == (130, b"")
            # A document where something had come.
            assert json.loads(out)["usage"] is None if flags and out else out in {b"", b"\n"}
            await eventually(lambda: gateway.cancelled == 1)


async def test_a_conversation_from_a_pipe_has_a_history_until_it_is_cleared() -> None:
    typed = 'Hi\n\n"""\ntwo\nlines\n"""\n/clear\nAgain\n/exit\nnever\n'
    done, requests = await ended("chat", "m", "--system", "Be brief", "--max-tokens", "9", stdin=typed)
    assert done.stdout == f"{SENTENCE}\n" * 3
    said = [[(one.role, one.content) for one in request.chat.messages] for request in requests]
    system, answer = ("system", "Be brief"), ("assistant", SENTENCE)
    assert said == [
        [system, ("user", "Hi")],
        [system, ("user", "Hi"), answer, ("user", "two\nlines")],
        [system, ("user", "Again")],
    ]
    assert len({request.session for request in requests}) == 1 and requests[0].session
    assert requests[0].sampling.max_tokens == 9


async def test_a_conversation_as_documents_ends_with_its_input_or_with_a_failure() -> None:
    done, _ = await ended("chat", "m", "--json", stdin="Hi\nBye")
    assert [json.loads(line)["content"] for line in done.stdout.splitlines()] == [SENTENCE] * 2

    def script(request: GenerateRequest) -> Sequence[Step]:
        return [ModelError("too long", entry=catalogue.CONTEXT_LENGTH_EXCEEDED)]

    done, requests = await ended("chat", "m", stdin="Hi\nBye\n", script=script, status=1)
    assert "/clear" in done.stderr and len(requests) == 1


async def test_embeddings_come_as_a_table_a_document_and_an_array(tmp_path: Path) -> None:
    async def embed(content: bytes) -> bytes:
        request = inference_pb2.InferRequest.FromString(content).request
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype) == ("text", "BYTES")
        (rows,) = tensor.shape
        asked.append(rows)
        answer = inference_pb2.InferResponse()
        answer.response.outputs.add(name="embedding", datatype="FP32", shape=[rows, 2])
        vectors = np.tile(np.array([[3, 4]], np.float32), (rows, 1))
        answer.response.raw_output_contents.append(vectors.tobytes())
        return answer.SerializeToString()

    asked: list[int] = []
    async with serving(ScriptedMesh(unary={rpcs.INFER.path: embed})) as address:
        command = Headrace(environment={"HEADRACE_ENDPOINT": address})

        async def run(*arguments: str, stdin: str = "") -> Done:
            return await asyncio.to_thread(command.process, "embed", "m", *arguments, stdin=stdin)

        assert "3.0000, 4.0000" in (await run("a text")).stdout
        assert "1.0000" in (await run("a text", "another", "--similarities")).stdout
        document = (await run("a", "b", "--json", "--similarities")).document
        assert document["embeddings"][1] == {"text": "b", "embedding": [3, 4]}
        assert np.allclose(document["similarities"], 1)
        target = tmp_path / "vectors.npy"
        await run("--npy", str(target), stdin="".join(f"line {number}\n" for number in range(70)))
        assert np.load(target).shape == (70, 2)
    assert asked[-3:] == [32, 32, 6]
