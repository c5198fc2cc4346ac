"""Spools on their way to quota, over broken streams and deaths of their writers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_ABANDONED, REQUEST_STATUS_OK, RunnerEvent
from headrace_common.clock import SystemClock
from headrace_common.grpc_client import open_channel
from headrace_common.tasks import TaskGuard
from headrace_gateway.accounting.accounting import Accounting
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.quota.lease_book import LeaseBook
from support.processes import HeldPort
from support.spools import admit, end, new_spool
from support.usage_ledger import UsageLedger, served

RECORDS_MAX = 4_096
_WRITER = Path(__file__).parents[2] / "support" / "spool_writer.py"


@asynccontextmanager
async def accounting(
    parent: Path, address: str, *, gateway_id: str = "gateway-0.b", replaced: Callable[[str], None] = lambda _: None
) -> AsyncGenerator[Accounting, None]:
    """A gateway's accounts; at the end they are closed as a gateway closes them."""
    clock = SystemClock()
    channel = open_channel(address, own_connection=True)
    book = LeaseBook(limits_of=lambda _: (), clock=clock, wake=lambda: None)
    async with TaskGuard() as tasks:
        accounts = Accounting(
            parent=parent,
            bytes_max=64 << 20,
            gateway_id=gateway_id,
            book=book,
            aggregates=lambda _: False,
            channel=channel,
            metadata=lambda: (("proof", "token"),),
            replaced=replaced,
            clock=clock,
            random=Random(1),
        )
        accounts.start(tasks)
        try:
            yield accounts
        finally:
            await accounts.close(30.0)
            await tasks.close()
            accounts.release()
            await channel.close()


def used(spool: Spool, count: int, *, first: int = 0) -> list[str]:
    """Calls that began and ended."""
    ids = [f"r{number}" for number in range(first, first + count)]
    for request_id in ids:
        end(spool, admit(spool, request_id), request_id)
    return ids


def left_in(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir()]


async def test_everything_is_told_once_and_nothing_stays_of_a_spool_that_ended(tmp_path: Path) -> None:
    ledger = UsageLedger()
    async with served(ledger) as address, accounting(tmp_path, address) as accounts:
        ids = used(accounts.spool, 2_500)
        event = RunnerEvent(runner_id="runner-0.boot", event="connected")
        accounts.tell_runner(event)
        await ledger.until(2_500)
    assert [row.request_id for row in ledger.rows] == ids
    assert [record.runner for record in ledger.records if record.HasField("runner")] == [event]
    assert max(ledger.batches) <= RECORDS_MAX
    assert ledger.closed == ["gateway-0.b"]
    assert left_in(tmp_path) == []


async def test_commits_whose_answers_are_lost_are_not_sent_again(tmp_path: Path) -> None:
    ledger = UsageLedger()
    async with served(ledger) as address, accounting(tmp_path, address) as accounts:
        ids = used(accounts.spool, 100)
        ledger.loses_answers = 1
        await ledger.until(100)
        ids += used(accounts.spool, 100, first=100)
        await ledger.until(200)
        assert [row.request_id for row in ledger.rows] == ids


async def test_usage_waits_for_quota_and_goes_there_when_it_comes(tmp_path: Path, port: HeldPort) -> None:
    ledger, address = UsageLedger(), port.address
    async with AsyncExitStack() as servers, accounting(tmp_path, address) as accounts:
        ids = used(accounts.spool, 50)
        async with asyncio.timeout(30):
            while accounts.shipper.behind_since is None:
                await asyncio.sleep(0.01)
        await servers.enter_async_context(served(ledger, address))
        await ledger.until(50)
        assert [row.request_id for row in ledger.rows] == ids


async def test_a_spool_that_can_not_be_taken_over_keeps_no_other_waiting(tmp_path: Path) -> None:
    spools = [new_spool(tmp_path, gateway_id=f"gateway-{name}.a") for name in ("one", "two", "three")]
    for spool in spools:
        used(spool, 10)
        spool.close(empty=False)
    (bad,) = spools[1].folder.path.glob("*.segment")
    bad.write_bytes(b"\x46" + bad.read_bytes()[1:])
    ledger = UsageLedger()
    replaced: list[str] = []
    async with served(ledger) as address, accounting(tmp_path, address, replaced=replaced.append):
        await ledger.until(20)
    assert sorted(replaced) == ["gateway-one.a", "gateway-three.a"]
    assert left_in(tmp_path) == [bad.parent.name]


async def test_a_gateway_that_stops_without_quota_leaves_its_usage_to_the_next(tmp_path: Path, port: HeldPort) -> None:
    ledger, address = UsageLedger(), port.address
    replaced: list[str] = []
    clock = SystemClock()
    channel = open_channel(address, own_connection=True)
    async with TaskGuard() as tasks:
        first = Accounting(
            parent=tmp_path,
            bytes_max=64 << 20,
            gateway_id="gateway-0.a",
            book=LeaseBook(limits_of=lambda _: (), clock=clock, wake=lambda: None),
            aggregates=lambda _: False,
            channel=channel,
            metadata=lambda: (),
            replaced=replaced.append,
            clock=clock,
            random=Random(1),
        )
        first.start(tasks)
        ids = used(first.spool, 10)
        await first.close(0.1)
        await tasks.close()
        first.release()
    await channel.close()
    assert len(left_in(tmp_path)) == 1
    async with served(ledger, address), accounting(tmp_path, address, replaced=replaced.append):
        await ledger.until(10)
        async with asyncio.timeout(30):
            while ledger.closed != ["gateway-0.a"]:
                await asyncio.sleep(0.01)
    assert [row.request_id for row in ledger.rows] == ids
    assert replaced == ["gateway-0.a"]
    assert left_in(tmp_path) == []


def test_a_writer_that_is_killed_loses_nothing_that_it_has_written(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, str(_WRITER), str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer, writer.stdout as lines:
        told = [lines.readline() for _ in range(5)]
        os.kill(writer.pid, signal.SIGKILL)
        # The last line may be torn; what was written after the last whole one may be there or not.
        told += lines.readlines()
        written = max(int(line) for line in told if line.endswith(b"\n"))
    ledger = asyncio.run(adopted(tmp_path, rows=written))
    statuses = {row.request_id: row.status for row in ledger.rows}
    assert len(statuses) == len(ledger.rows)
    for number in range(written):
        assert statuses[f"r{number}"] == (REQUEST_STATUS_OK if number % 10 else REQUEST_STATUS_ABANDONED)
    assert left_in(tmp_path) == []


async def adopted(parent: Path, *, rows: int) -> UsageLedger:
    """The ledger after a gateway has found a spool with at least so many calls, and told all of it."""
    ledger = UsageLedger()
    async with served(ledger) as address, accounting(parent, address):
        await ledger.until(rows)
        async with asyncio.timeout(30):
            while not ledger.closed:
                await asyncio.sleep(0.01)
    return ledger
