"""What the commands make of answers that a healthy mesh of the same version doesn't give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2, mesh_pb2
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_common.catalogue import SERVICE_NOT_READY
from headrace_common.errors import NotReady
from support.headrace_command import Done, Headrace
from support.scripted_mesh import ScriptedMesh, serving

Answer = Callable[[bytes], Awaitable[bytes]]


async def ended(mesh: ScriptedMesh, *arguments: str, status: int = 0) -> Done:
    """The command as a process beside the mesh, which lives on this loop."""
    async with serving(mesh) as address:
        command = Headrace(environment={"HEADRACE_ENDPOINT": address})
        return await asyncio.to_thread(command.process, *arguments, status=status)


def saying(content: bytes) -> Answer:
    async def answer(_: bytes) -> bytes:
        return content

    return answer


async def silence(_: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


@pytest.mark.parametrize(
    ("answer", "timeout_s", "status"), [(saying(b""), 60, 1), (silence, 1, 3)], ids=["not ready", "no answer"]
)
async def test_status_tells_a_mesh_that_is_not_ready_from_one_that_is_silent(
    answer: Answer, timeout_s: int, status: int
) -> None:
    mesh = ScriptedMesh(unary={rpcs.SERVER_READY.path: answer})
    done = await ended(mesh, "status", "--json", "--timeout", str(timeout_s), status=status)
    if status == 1:
        assert (done.document["live"], done.document["ready"], done.document["tenant"]) == (True, False, None)
    else:
        assert done.error["reason"] == "UNREACHABLE"


async def test_a_key_whose_answer_was_lost_is_not_made_twice() -> None:
    async def busy(_: bytes) -> bytes:
        raise NotReady("not yet", entry=SERVICE_NOT_READY)

    mesh = ScriptedMesh(unary={rpcs.CREATE_API_KEY.path: busy})
    error = (await ended(mesh, "keys", "create", "--json", status=1)).error
    assert (error["reason"], error["retryable"], len(mesh.calls)) == ("SERVICE_NOT_READY", True, 1)


async def test_names_of_others_can_not_steer_the_terminal() -> None:
    tenant = tenants_pb2.Tenant(
        id="acme", display_name="\x1b]0;owned\x07[bold]x", status=tenants_pb2.TENANT_STATUS_ACTIVE
    )
    content = tenants_pb2.ListTenantsResponse(tenants=[tenant]).SerializeToString()
    done = await ended(ScriptedMesh(unary={rpcs.LIST_TENANTS.path: saying(content)}), "tenants", "list")
    assert "[bold]x" in done.stdout
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout


async def test_bytes_that_are_no_text_come_as_base64() -> None:
    version = models_pb2.GetVersionResponse()
    version.version.manifest.inputs.add(name="x", datatype="BYTES", shape=[-1])
    answer = inference_pb2.InferResponse()
    answer.response.outputs.add(name="y", datatype="BYTES", shape=[1])
    answer.response.raw_output_contents.append(b"\x01\0\0\0\xff")
    unary = {
        rpcs.GET_VERSION.path: saying(version.SerializeToString()),
        rpcs.INFER.path: saying(answer.SerializeToString()),
    }
    done = await ended(ScriptedMesh(unary=unary), "infer", "m", "-i", '["a"]', "--json")
    assert done.document["outputs"] == [
        {"name": "y", "datatype": "BYTES", "shape": [1], "encoding": "base64", "data": ["/w=="]}
    ]


async def test_a_watch_that_breaks_is_told_after_what_it_saw() -> None:
    async def broken(_: bytes) -> AsyncIterator[bytes]:
        runner = mesh_pb2.Runner(id="r", name="runner-9", state=mesh_pb2.RUNNER_STATE_READY)
        yield mesh_pb2.WatchRunnersResponse(runner=runner).SerializeToString()
        raise NotReady("the gateway leaves", entry=SERVICE_NOT_READY)

    mesh = ScriptedMesh(responses={rpcs.WATCH_RUNNERS.path: broken})
    done = await ended(mesh, "runners", "watch", status=1)
    assert done.stdout == "runner-9 ready\n"
    assert "the gateway leaves" in done.stderr


async def test_an_answer_that_can_not_be_read_is_no_traceback() -> None:
    metadata = open_inference_pb2.ServerMetadataResponse(name="x").SerializeToString()
    mesh = ScriptedMesh(unary={rpcs.LIST_MODELS.path: saying(metadata + b"\xff")})
    assert (await ended(mesh, "models", "list", "--json", status=1)).error["reason"] == "INTERNAL_ERROR"
