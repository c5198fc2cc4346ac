"""Keeps account of each call: reserved before it is forwarded, written down, settled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from headrace.quota.v1 import usage_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting import records
from headrace_gateway.accounting.estimates import VersionUse, prompt_tokens
from headrace_gateway.accounting.records import Estimate, Labels
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.reservation import NO_LIMITS, Reservation

if TYPE_CHECKING:
    from headrace_gateway.inference.call import Caller, InferenceCall
    from headrace_gateway.mesh.runner_session import RunnerSession
    from headrace_gateway.mesh.session_calls import Answer

STREAM, BATCH, UNARY, GENERATE = "stream", "batch", "unary", "generate"
"""How a call came, as the ledger says it."""
GRANT_TIMEOUT_S = 2.0
"""Calls wait this long for a grant, at most."""
_OK = int(usage_pb2.REQUEST_STATUS_OK)
_FAILED = int(usage_pb2.REQUEST_STATUS_FAILED)
_CANCELLED = int(usage_pb2.REQUEST_STATUS_CANCELLED)
_CANCELLED_REASON = catalogue.CALL_CANCELLED.reason
_ACCOUNTS_MAX = 10_000
_admitted, _ended, _request_id_text = records.admitted, records.ended, records.request_id_text
_UNKNOWN = Estimate(-1, 0, 0, 0.0)


class CallLog(Protocol):
    """Where admissions and ends are written; see `Spool`.

    Attributes:
        sequence: Number of the last one.
    """

    sequence: int

    def check_room(self) -> None:
        """Raises SPOOL_FULL (UNAVAILABLE) where there is none."""
        ...

    def admit(self, body: bytes) -> int:
        """Writes an admission, which has the next number, and returns that."""
        ...

    def end(self, admission: int, record: bytes) -> None:
        """Writes an end, which has the next number."""
        ...


class Book(Protocol):
    """What tenants may use; see `LeaseBook`."""

    def reserve(self, tenant_id: str, model: str, estimate: Amounts) -> Reservation | None:
        """Takes a call's part of every limit; None where a grant must be awaited."""
        ...

    async def granted(self, tenant_id: str, model: str, estimate: Amounts, timeout_s: float) -> Reservation:
        """Waits for a grant."""
        ...


class Account:
    """What calls of one subject for one version have in common. The last estimate is kept: the next is often alike."""

    __slots__ = ("amounts", "estimate", "labels", "model", "tenant_id", "text", "use")

    def __init__(self, *, labels: Labels, use: VersionUse) -> None:
        self.labels = labels
        self.text = records.labels_text(labels)
        self.tenant_id = labels.tenant_id
        self.model = labels.model
        self.use = use
        self.estimate = _UNKNOWN
        self.amounts = Amounts()


class CallAccounts:
    """Reserves, writes down, settles. Each call ends once here, however it ends. One event loop.

    Args:
        log: Where admissions and ends are written.
        book: Which reserves.
        aggregates: Whether the rows of a tenant's streams are summed up.
        clock: Tells the times of rows.
    """

    def __init__(self, *, log: CallLog, book: Book, aggregates: Callable[[str], bool], clock: Clock) -> None:
        self._log = log
        self._book = book
        self._aggregates = aggregates
        self._clock = clock
        self._accounts: dict[tuple[str, str, str], Account] = {}
        self._uses: dict[str, VersionUse] = {}
        self._places: dict[str, bytes] = {}
        self._reasons: dict[str, bytes] = {}
        self._unix_s = 0.0
        self.refresh()

    def refresh(self) -> None:
        """To be called once a second: what is remembered of tenants, runners and the time of day is looked up anew."""
        self._unix_s = self._clock.now().timestamp() - self._clock.monotonic()
        self._places.clear()
        if len(self._accounts) > _ACCOUNTS_MAX:
            self._accounts.clear()
        for account in self._accounts.values():
            labels = self._labels(account.labels)
            if labels is not account.labels:
                account.labels, account.text = labels, records.labels_text(labels)
            account.estimate = _UNKNOWN

    def forget(self, uid: str) -> None:
        """A version has left service."""
        self._uses.pop(uid, None)
        for key in [key for key in self._accounts if key[0] == uid]:
            del self._accounts[key]

    def open(self, call: InferenceCall, caller: Caller, request_bytes: int) -> None:
        """Tells whose call it is."""
        call.request_bytes = request_bytes
        kind = GENERATE if call.parts is not None and caller.kind == UNARY else caller.kind
        call.account = self._accounts.get((call.version.uid, caller.subject, kind)) or self._opened(call, caller, kind)

    def reserve(self, call: InferenceCall) -> bool:
        """Takes the call's part of every limit of its tenant; False where `granted` must be awaited.

        Raises:
            HeadraceError: SPOOL_FULL (UNAVAILABLE), the book's.
        """
        self._log.check_room()
        account = call.account
        assert account is not None, "it was opened"
        use = account.use
        size = call.request_bytes
        if call.parts is not None:
            prompt, completion = prompt_tokens(size), int((call.tokens_max or use.completion_tokens) * call.places)
            account.estimate = Estimate(size, prompt, completion, use.device_ms)
            account.amounts = Amounts(1, prompt + completion, size, use.device_ms_up)
        elif account.estimate.input_bytes != size or account.amounts.device_ms != use.device_ms_up:
            account.estimate = Estimate(size, 0, 0, use.device_ms)
            account.amounts = Amounts(1, 0, size, use.device_ms_up)
        call.estimate = account.estimate
        call.reservation = self._book.reserve(account.tenant_id, account.model, account.amounts)
        return call.reservation is not None

    async def granted(self, call: InferenceCall) -> None:
        """Waits for what `reserve` could not take at once.

        Raises:
            HeadraceError: The book's.
        """
        account, estimate = call.account, call.estimate
        assert account is not None and estimate is not None, "it was asked for"
        amounts = Amounts(
            1, estimate.prompt_tokens + estimate.completion_tokens, estimate.input_bytes, account.use.device_ms_up
        )
        timeout_s = min(GRANT_TIMEOUT_S, call.deadline - self._clock.monotonic())
        call.reservation = await self._book.granted(account.tenant_id, account.model, amounts, max(0.0, timeout_s))
        call.admitted_at = self._clock.monotonic()
        self._log.check_room()

    def refused(self, call: InferenceCall) -> None:
        """The call was not admitted after all."""
        if call.reservation is not None:
            call.reservation.release()
            call.reservation = None

    def admitted(self, call: InferenceCall) -> None:
        """Writes down that the call is accepted. Nothing of it has left this process yet."""
        account, estimate = call.account, call.estimate
        assert account is not None and estimate is not None, "it was reserved"
        admitted_at = call.admitted_at = call.admitted_at or call.arrived_at
        text = account.text
        if not account.labels.summed:
            text += _request_id_text(call.request_id)
        call.row_text = text
        log = self._log
        admitted_us = int((self._unix_s + admitted_at) * 1e6)
        call.row = log.admit(_admitted(log.sequence + 1, admitted_us, estimate, text))

    def ended(self, call: InferenceCall, outcome: Answer | HeadraceError | None, now: float) -> None:
        """The call has ended; None means that nobody wants the outcome any more."""
        if not call.row:
            self.refused(call)
            return
        account, estimate, reservation = call.account, call.estimate, call.reservation
        assert account is not None and estimate is not None and reservation is not None, "an admitted call has them"
        use, parts = account.use, call.parts
        queue_us = execution_us = output_bytes = prompt = completion = 0
        text, status = call.row_text, _OK
        if parts is not None:
            prompt, completion, output_bytes = parts.prompt_tokens, parts.completion_tokens, parts.sent_bytes
        if outcome is None or isinstance(outcome, HeadraceError):
            reason = _CANCELLED_REASON if outcome is None else outcome.reason
            status = _CANCELLED if reason == _CANCELLED_REASON else _FAILED
            text += self._reasons.get(reason) or self._reason(reason)
            # What was computed in vain isn't told.
            device_ms = min(estimate.device_ms, (now - call.sent_at) * 1000) if call.sends else 0.0
            if call.sends and parts is not None and not prompt:
                prompt = estimate.prompt_tokens
        else:
            queue_us, execution_us = outcome.queue_us, outcome.compute_us
            device_ms = outcome.share_us / 1000
            use.computed(device_ms)
            output_bytes += len(outcome.payload)
            if parts is not None and not call.tokens_max:
                use.generated(completion / call.places)
        session = call.session
        if session is not None:
            text += self._places.get(session.token) or self._place(session)
        admitted_at = call.admitted_at
        log, row = self._log, call.row
        record = _ended(
            log.sequence + 1,
            row,
            status,
            int((self._unix_s + admitted_at) * 1e6),
            int((now - admitted_at) * 1e6),
            queue_us,
            execution_us,
            estimate.input_bytes,
            output_bytes,
            prompt,
            completion,
            device_ms,
            call.sends,
            text,
        )
        log.end(row, record)
        call.row = 0
        if reservation.by_amount:
            reservation.settle(Amounts(1, prompt + completion, estimate.input_bytes, use.whole_ms(device_ms)))
        elif reservation is not NO_LIMITS:
            reservation.settle(account.amounts)

    def _opened(self, call: InferenceCall, caller: Caller, kind: str) -> Account:
        version = call.version
        use = self._uses.get(version.uid)
        if use is None:
            use = self._uses[version.uid] = VersionUse()
        labels = Labels(caller.tenant_id, caller.subject, version.model, version.version_text, kind)
        account = Account(labels=self._labels(labels), use=use)
        self._accounts[version.uid, caller.subject, kind] = account
        return account

    def _labels(self, labels: Labels) -> Labels:
        summed = labels.kind == STREAM and self._aggregates(labels.tenant_id)
        return labels if labels.summed == summed else labels._replace(summed=summed)

    def _place(self, session: RunnerSession) -> bytes:
        place = self._places[session.token] = records.place_text(session.id, session.hello.device.type)
        return place

    def _reason(self, reason: str) -> bytes:
        text = self._reasons[reason] = records.text("error_reason", reason)
        return text
