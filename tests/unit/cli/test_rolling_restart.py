"""Which processes a restart means, and that never two of them are away at once."""

from __future__ import annotations

import asyncio

import pytest

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.rolling_restart import RollingRestart, restart_order

MEMBERS = ["quota", "registry", "gateway-0", "gateway-1", "runner-0", "runner-10"]


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ([], MEMBERS),
        (["runner"], ["runner-0", "runner-10"]),
        (["runner-10", "gateway"], ["gateway-0", "gateway-1", "runner-10"]),
        (["quota", "quota"], ["quota"]),
    ],
)
def test_services_and_processes_are_restarted_in_the_order_of_the_mesh(wanted: list[str], order: list[str]) -> None:
    assert restart_order(wanted, MEMBERS) == order


@pytest.mark.parametrize("wanted", ["runner-1", "postgres", "", "gateway-"])
def test_an_unknown_name_is_refused_with_the_known_ones(wanted: str) -> None:
    with pytest.raises(MeshError, match="quota, registry, gateway, runner"):
        restart_order([wanted], MEMBERS)


class Mesh:
    """Processes that leave and come back, and a mesh that is whole a moment later."""

    def __init__(self, *, fails: str = "") -> None:
        self.away: set[str] = set()
        self.done: list[str] = []
        self.fails = fails
        self.rolling = RollingRestart(members=MEMBERS, restart=self.restart, settled=self.settled)

    async def restart(self, name: str) -> None:
        assert not self.away
        self.away.add(name)
        await asyncio.sleep(0)
        if name == self.fails:
            raise MeshError(f"{name} does not serve again")
        self.done.append(name)

    async def settled(self) -> None:
        await asyncio.sleep(0)
        self.away.clear()

    async def run(self, *wanted: str) -> list[tuple[str, bool]]:
        return [news async for news in self.rolling.run(wanted)]


async def test_each_process_serves_again_before_the_next_one_leaves() -> None:
    mesh = Mesh()
    assert await mesh.run() == [news for name in MEMBERS for news in ((name, False), (name, True))]
    assert mesh.done == MEMBERS


async def test_what_comes_after_a_process_that_stays_away_is_left_alone() -> None:
    mesh = Mesh(fails="gateway-0")
    with pytest.raises(MeshError, match="gateway-0 does not serve again"):
        await mesh.run()
    assert mesh.done == ["quota", "registry"]
    mesh.fails, mesh.away = "", set()
    await mesh.run("gateway")
    assert mesh.done == ["quota", "registry", "gateway-0", "gateway-1"]


async def test_a_second_restart_meanwhile_is_refused() -> None:
    mesh = Mesh()
    first = asyncio.create_task(mesh.run("quota"))
    await asyncio.sleep(0)
    with pytest.raises(MeshError, match="another restart is under way"):
        await mesh.run("quota")
    await first
    assert mesh.done == ["quota"]
