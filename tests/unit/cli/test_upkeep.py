"""Upkeep of a running mesh on a disk that is full."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.upkeep import Upkeep


@dataclass
class Disk:
    """Where the ready file and the logs lie."""

    full: bool = False
    published: int = 0
    looked: int = 0
    said: list[str] = field(default_factory=list)

    def publish(self) -> None:
        if self.full:
            raise MeshError("the ready file can't be written")
        self.published += 1

    def bound_logs(self) -> list[str]:
        self.looked += 1
        return ["a log can't be kept small"] if self.full else []

    def upkeep(self) -> Upkeep:
        return Upkeep(publish=self.publish, bound_logs=self.bound_logs, notice=self.said.append)


async def test_it_publishes_when_something_changed_and_always_looks_at_the_logs() -> None:
    disk = Disk()
    upkeep = disk.upkeep()
    for changed in (False, True, False):
        await upkeep.round(changed=changed)
    assert (disk.published, disk.looked, disk.said) == (1, 3, [])


async def test_a_full_disk_is_said_once_and_made_up_for_when_there_is_room_again() -> None:
    disk = Disk(full=True)
    upkeep = disk.upkeep()
    for changed in (True, False, False):
        await upkeep.round(changed=changed)
    assert (disk.published, disk.looked) == (0, 3)
    assert disk.said == ["the ready file can't be written", "a log can't be kept small"]
    disk.full = False
    await upkeep.round(changed=False)
    await upkeep.round(changed=False)
    assert disk.published == 1
    disk.full = True
    await upkeep.round(changed=False)
    assert disk.said[2:] == ["a log can't be kept small"]
