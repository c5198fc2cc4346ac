"""The supervisor's socket and the command that asks there, and the port that gateways share."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace_cli.mesh.control import Control
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.ports import PortChoice, PortTakenError, SharedPort, any_free_port, is_free
from headrace_cli.mesh.ready_file import ready_content, write_atomically
from headrace_cli.mesh.rolling_restart import RollingRestart
from headrace_cli.mesh.state_dir import StateDir
from headrace_common.clock import SystemClock
from support.headrace_command import Headrace


@asynccontextmanager
async def supervising(folder: Path, *, stays_away: str = "", held: asyncio.Event | None = None) -> AsyncGenerator[Path]:
    """What a supervisor offers on a state directory; gives the path of the socket."""
    state = StateDir(folder)
    state.open()

    async def restart(name: str) -> None:
        if held is not None:
            await held.wait()
        if name == stays_away:
            raise MeshError(f"{name} does not serve again after 90 s")

    async def settled() -> None:
        return

    rolling = RollingRestart(members=["quota", "gateway-0", "gateway-1"], restart=restart, settled=settled)
    control = Control(path=state.control_socket, restart=rolling, clock=SystemClock())
    content = ready_content(
        grpc="127.0.0.1:1", http=None, api_key="k", pid=os.getpid(), control=control.path, processes=[]
    )
    write_atomically(state.mesh_file, content)
    async with control.serving():
        yield control.path
    state.close()


async def asked(folder: Path, *services: str, status: int = 0) -> tuple[str, str]:
    arguments = ("restart", *services, "--json", "--state-dir", str(folder))
    done = await asyncio.to_thread(Headrace().process, *arguments, status=status)
    return done.stdout, done.stderr


async def test_the_command_tells_each_process_that_is_back(tmp_path: Path) -> None:
    async with supervising(tmp_path / "state") as path:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        said, _ = await asked(tmp_path / "state", "gateway")
    news = [json.loads(line) for line in said.splitlines()]
    assert [one["restarted"] for one in news if "restarted" in one] == ["gateway-0", "gateway-1"]
    assert news[-1] == {"done": True}
    assert not path.exists()


async def test_what_the_supervisor_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    async with supervising(tmp_path / "state", stays_away="gateway-0"):
        said, problems = await asked(tmp_path / "state", status=1)
        assert "quota" in said
        assert "gateway-0 does not serve again" in json.loads(problems)["error"]["message"]
        _, problems = await asked(tmp_path / "state", "abacus", status=1)
        assert "nothing here is called abacus" in json.loads(problems)["error"]["message"]


async def test_a_mesh_that_is_not_there_or_ends_meanwhile_is_unreachable(tmp_path: Path) -> None:
    assert "no mesh runs" in (await asked(tmp_path / "nowhere", status=3))[1]
    async with supervising(tmp_path / "state", held=asyncio.Event()) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"restart": ["quota"]}\n')
        assert json.loads(await reader.readline()) == {"restarting": "quota"}
        assert "another restart is under way" in (await asked(tmp_path / "state", status=1))[1]
    assert await reader.read() == b""
    writer.close()


async def test_a_request_that_is_none_is_answered_and_harms_nothing(tmp_path: Path) -> None:
    async with supervising(tmp_path / "state") as path:
        for request in (b"\n", b"[]\n", b'{"restart": 7}\n', b"\xff\xfe\n", b""):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(request)
            writer.write_eof()
            assert "does not understand" in json.loads(await reader.readline())["failed"]
            writer.close()
        assert json.loads((await asked(tmp_path / "state", "quota"))[0].splitlines()[-1]) == {"done": True}


async def test_a_path_that_is_too_long_for_a_socket_is_replaced_by_one_that_is_not(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    async with supervising(folder) as path:
        assert not path.is_relative_to(folder)
        await asked(folder, "quota")
    assert not path.parent.exists()


def listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_a_shared_port_is_held_for_those_who_share_it() -> None:
    shared = SharedPort(PortChoice(port=0, flexible=True), option="--grpc-port")
    try:
        assert not is_free(shared.port)
        with listening(shared.port), listening(shared.port), socket.create_connection(("127.0.0.1", shared.port)):
            pass
        assert not is_free(shared.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", shared.port))
    finally:
        shared.close()
    assert is_free(shared.port)


def test_a_shared_port_that_is_taken_is_given_up_only_where_it_may_be() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", any_free_port()))
        taken: int = other.getsockname()[1]
        shared = SharedPort(PortChoice(port=taken, flexible=True), option="--grpc-port")
        assert shared.port != taken
        shared.close()
        with pytest.raises(PortTakenError, match="--grpc-port"):
            SharedPort(PortChoice(port=taken, flexible=False), option="--grpc-port")
