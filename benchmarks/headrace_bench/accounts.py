"""What identity, quota and usage add to a call in the gateway: `python -m headrace_bench.accounts`.

Runs the gateway's own objects in this process, without a network: a key table, a book of leases with permits, a spool
on the disk. Prints CPU microseconds a call, the median of several rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from headrace.quota.internal.v1.principals_pb2 import KeyRecord, TenantRecord
from headrace.quota.v1 import quotas_pb2 as quotas
from headrace.quota.v1.tenants_pb2 import ROLE_USER, TENANT_STATUS_ACTIVE
from headrace.registry.v1.models_pb2 import Version
from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting.call_accounts import CallAccounts
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder
from headrace_gateway.accounting.spool_reader import SpoolReader
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.identity import Identity
from headrace_gateway.inference.call import Caller, InferenceCall
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease_book import LeaseBook
from headrace_gateway.version_meters import VersionMeters

_ROUNDS = 15
_CALLS = 10_000
_OPEN = 64
_KEY = "hr_0123456789abcdef0123456789abcdef"
_LIMITS = (
    quotas.Limit(resource=quotas.RESOURCE_REQUESTS, window=quotas.WINDOW_RATE, amount=10**9),
    quotas.Limit(resource=quotas.RESOURCE_REQUESTS, window=quotas.WINDOW_DAY, amount=10**12),
    quotas.Limit(resource=quotas.RESOURCE_CONCURRENCY, window=quotas.WINDOW_MOMENT, amount=10**6),
)
_VERSION = CatalogVersion(
    tenant_id="acme", uid="uid-1", model="tiny", version=1, version_text="1", proto=Version(uid="uid-1", model="tiny")
)


class _Accounts:
    """A tenant's accounts on a spool of their own, with permits for every limit that it has."""

    def __init__(self, folder: Path, *, limits: tuple[quotas.Limit, ...], aggregated: bool) -> None:
        clock = SystemClock()
        self.spool = Spool(folder=SpoolFolder.new(folder, gateway_id="bench"), left=None, bytes_max=1 << 30)
        book = LeaseBook(limits_of=lambda _: limits, clock=clock, wake=lambda: None)
        self._accounts = CallAccounts(log=self.spool, book=book, aggregates=lambda _: aggregated, clock=clock)
        self._caller = Caller("acme", uuid4().hex, "", 30.0, subject=f"key:{uuid4()}", kind="stream")
        self._meters = VersionMeters(("acme", "tiny", "1"))
        self._answer = Answer(b"x" * 100, 50, 400, 0, 0, 1, leads_batch=True)
        self._now = clock.monotonic()
        if limits:
            _supply(book)

    def call(self) -> InferenceCall:
        """A call as the handler makes it."""
        now = self._now
        request_id = self._caller.request_id
        return InferenceCall(
            _VERSION, request_id, "", 5, now, now + 30, b"", self._meters, None, 0, lambda _call, _outcome: None
        )

    def calls(self) -> None:
        """Opens, admits and ends calls, some of them open at a time."""
        accounts, caller, answer, now = self._accounts, self._caller, self._answer, self._now
        for _ in range(_CALLS // _OPEN):
            made = [self.call() for _ in range(_OPEN)]
            for call in made:
                accounts.open(call, caller, 100)
                if not accounts.reserve(call):
                    raise RuntimeError("there are permits for all")
                accounts.admitted(call)
            for call in made:
                accounts.ended(call, answer, now + 0.001)

    def bare_calls(self) -> None:
        """The same without accounts, to be taken off."""
        for _ in range(_CALLS // _OPEN):
            made = [self.call() for _ in range(_OPEN)]
            for _call in made:
                pass

    def shipping(self) -> Callable[[], None]:
        """What the shipper makes of all that is in the spool, but for sending it."""
        for _ in range(3):
            self.calls()

        def ship() -> None:
            reader = SpoolReader(spool=self.spool, after=0)
            while reader.read(rest=True) is not None:
                pass
            reader.close()

        return ship


def _supply(book: LeaseBook) -> None:
    # Refused, as nobody is there to grant anything; the book knows the leases from now on.
    with suppress(HeadraceError):
        book.reserve("acme", "tiny", Amounts())
    for lease in book.live.values():
        lease.free, lease.until_s = 10**9, float("inf")


def _identity() -> Identity:
    table = PrincipalTable()
    tenant = TenantRecord(tenant_id="acme", status=TENANT_STATUS_ACTIVE)
    key = KeyRecord(key_id=str(uuid4()), tenant_id="acme", key_sha256=sha256(_KEY.encode()).digest(), roles=[ROLE_USER])
    table.replace([tenant], [key])
    return Identity(table=table, clock=SystemClock(), community=False)


def _us(work: Callable[[], None], calls: int) -> float:
    """CPU microseconds a call: the median of rounds after one to warm up."""
    work()
    taken: list[float] = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        work()
        taken.append((time.process_time() - begun) / calls * 1e6)
    return statistics.median(taken)


def main() -> None:
    """Measures and prints a table."""
    rows: list[tuple[str, float]] = []
    identity = _identity()
    metadata = (("x-api-key", _KEY), ("user-agent", "bench"), ("x-request-id", uuid4().hex))

    def authenticate() -> None:
        for _ in range(_CALLS):
            identity.authenticate(metadata)

    rows.append(("identity, once a unary call or stream", _us(authenticate, _CALLS)))
    for name, limits, aggregated in (
        ("no limits, a row a call", (), False),
        ("three limits, a row a call", _LIMITS, False),
        ("three limits, summed up by the second", _LIMITS, True),
    ):
        with tempfile.TemporaryDirectory() as folder:
            accounts = _Accounts(Path(folder), limits=limits, aggregated=aggregated)

            def drop(accounts: _Accounts = accounts) -> None:
                accounts.calls()
                accounts.spool.acknowledge(accounts.spool.sequence)

            rows.append((f"quota and usage, {name}", _us(drop, _CALLS) - _us(accounts.bare_calls, _CALLS)))
            accounts.spool.close(empty=True)
    for name, aggregated in (("a row a call", False), ("summed up by the second", True)):
        with tempfile.TemporaryDirectory() as folder:
            accounts = _Accounts(Path(folder), limits=(), aggregated=aggregated)
            rows.append((f"preparing batches for quota, {name}", _us(accounts.shipping(), 3 * _CALLS)))
            accounts.spool.close(empty=True)
    for name, value in rows:
        sys.stdout.write(f"{name:60s} {value:6.2f} µs\n")


if __name__ == "__main__":
    main()
