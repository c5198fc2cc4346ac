"""The packed stream's bookkeeping against a model of the server."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import (
    InferRequest,
    StreamAnswer,
    StreamCall,
    StreamRequest,
    StreamResponse,
)
from headrace_client.packing import Call, PackingLimits, WaitingCalls, WireStream

NAMES = st.text("ab", max_size=20)


def call_named(name: str, *, deadline: float = 30.0) -> Call[str]:
    request = InferRequest()
    request.request.model_name = name
    extra = StreamCall(request_id=f"id of {name}").SerializeToString()
    return Call(infer=request.SerializeToString(), extra=extra, deadline=deadline, owner=name)


def limits(**changes: int) -> PackingLimits:
    values = {
        "calls_max": 1024,
        "bytes_max": 64 << 20,
        "calls_per_message_max": 1024,
        "message_bytes_max": 8 << 20,
    }
    return PackingLimits(**{**values, **changes})


def queue(*calls: Call[str], calls_max: int = 1000, bytes_max: int = 1 << 30) -> WaitingCalls[str]:
    waiting: WaitingCalls[str] = WaitingCalls(calls_max=calls_max, bytes_max=bytes_max)
    for call in calls:
        waiting.push(call)
    return waiting


def sent(stream: WireStream[str], now: float = 0.0) -> StreamRequest | None:
    message = stream.pack(now)
    return None if message is None else StreamRequest.FromString(message)


def answers(*ids: int, draining: bool = False) -> StreamResponse:
    return StreamResponse(answers=[StreamAnswer(id=call_id) for call_id in ids], draining=draining)


def test_what_waits_leaves_in_one_message_in_the_order_it_came() -> None:
    stream = WireStream(waiting=queue(*map(call_named, "abc")), limits=limits())
    message = sent(stream)
    assert message is not None
    assert [(call.id, call.infer.request.model_name) for call in message.calls] == [(1, "a"), (2, "b"), (3, "c")]
    assert stream.pack(0.0) is None


def test_a_call_carries_the_time_it_has_left_rounded_up_to_milliseconds_and_never_none() -> None:
    calls = [call_named("a", deadline=10.0), call_named("b", deadline=100.0), call_named("c", deadline=1.0)]
    message = sent(WireStream(waiting=queue(*calls), limits=limits()), now=7.5001)
    assert message is not None
    assert [call.timeout.ToMilliseconds() for call in message.calls] == [2500, 92_500, 1]


def test_no_more_calls_are_in_a_message_or_in_flight_than_the_server_takes() -> None:
    waiting = queue(*map(call_named, "abcde"))
    stream = WireStream(waiting=waiting, limits=limits(calls_max=3, calls_per_message_max=2))
    sizes = [len(message.calls) for message in iter(lambda: sent(stream), None)]
    assert sizes == [2, 1]
    stream.received(answers(2))
    message = sent(stream)
    assert message is not None and [call.id for call in message.calls] == [4]


def test_a_call_over_the_byte_window_goes_alone() -> None:
    waiting = queue(call_named("a"), call_named("b" * 500), call_named("c"))
    stream = WireStream(waiting=waiting, limits=limits(bytes_max=200))
    first = sent(stream)
    assert first is not None and [call.id for call in first.calls] == [1]
    assert stream.pack(0.0) is None
    stream.received(answers(1))
    second = sent(stream)
    assert second is not None and [call.id for call in second.calls] == [2]
    assert stream.pack(0.0) is None


def test_what_does_not_fit_into_a_message_goes_into_the_next() -> None:
    calls = [call_named("a" * 100) for _ in range(7)]
    stream = WireStream(waiting=queue(*calls), limits=limits(message_bytes_max=3 * calls[0].size))
    messages = list(iter(lambda: stream.pack(0.0), None))
    assert [len(StreamRequest.FromString(message).calls) for message in messages] == [3, 3, 1]
    assert all(len(message) <= 3 * calls[0].size for message in messages)


def test_a_message_with_several_calls_stays_below_a_mebibyte() -> None:
    large = [call_named("a" * 400_000) for _ in range(2)]
    stream = WireStream(waiting=queue(call_named("b"), *large, call_named("c")), limits=limits())
    messages = [StreamRequest.FromString(message) for message in iter(lambda: stream.pack(0.0), None)]
    assert [len(message.calls) for message in messages] == [2, 2]
    huge = call_named("a" * 2_000_000)
    message = sent(WireStream(waiting=queue(huge), limits=limits()))
    assert message is not None and len(message.calls) == 1


def test_answers_give_the_byte_window_back() -> None:
    calls = [call_named("a") for _ in range(6)]
    stream = WireStream(waiting=queue(*calls), limits=limits(bytes_max=2 * calls[0].size))
    for ids in ([1, 2], [3, 4], [5, 6]):
        message = sent(stream)
        assert message is not None and [call.id for call in message.calls] == ids
        assert stream.pack(0.0) is None
        stream.received(answers(*ids))


def test_a_call_that_fits_into_no_message_is_handed_back_and_holds_up_nobody() -> None:
    large, small = call_named("a" * 500), call_named("b")
    stream = WireStream(waiting=queue(large, small), limits=limits(message_bytes_max=400))
    message = sent(stream)
    assert message is not None and [call.infer.request.model_name for call in message.calls] == ["b"]
    assert stream.take_too_large() == [large]
    assert stream.take_too_large() == []


def test_a_draining_stream_takes_no_calls_but_still_cancels() -> None:
    first, second = call_named("a"), call_named("b")
    waiting = queue(first)
    stream = WireStream(waiting=waiting, limits=limits())
    stream.pack(0.0)
    stream.received(answers(draining=True))
    waiting.push(second)
    assert stream.pack(0.0) is None
    first.withdraw()
    assert sent(stream) == StreamRequest(cancels=[1])


def test_answers_to_unknown_ids_and_second_answers_reach_nobody() -> None:
    call = call_named("a")
    stream = WireStream(waiting=queue(call), limits=limits())
    stream.pack(0.0)
    answered = stream.received(answers(7, 1, 1))
    assert [found for found, _ in answered] == [call]
    assert stream.received(answers(1)) == []


def test_calls_of_a_broken_stream_go_before_new_ones_with_new_ids() -> None:
    first, gone, second, new = map(call_named, "abcd")
    waiting = queue(first, gone, second)
    stream = WireStream(waiting=waiting, limits=limits())
    stream.pack(0.0)
    waiting.push(new)
    gone.withdraw()
    waiting.push_first(stream.ended())
    message = sent(WireStream(waiting=waiting, limits=limits()))
    assert message is not None
    assert [call.infer.request.model_name for call in message.calls] == ["a", "c", "d"]
    assert [call.id for call in message.calls] == [1, 2, 3]
    assert (first.tries, second.tries, new.tries) == (2, 2, 1)


def test_a_deferred_call_fills_the_queue_but_is_not_sent_before_it_is_resumed() -> None:
    call = call_named("a")
    waiting = queue(calls_max=1)
    waiting.defer(call)
    stream = WireStream(waiting=waiting, limits=limits())
    assert not waiting.has_room(1)
    assert stream.pack(0.0) is None
    waiting.resume(call)
    message = sent(stream)
    assert message is not None and len(message.calls) == 1


def test_withdrawing_twice_or_after_the_end_does_nothing() -> None:
    call = call_named("a")
    waiting = queue(call)
    call.withdraw()
    call.withdraw()
    waiting.resume(call)
    assert len(waiting) == 0 and waiting.first() is None


class PackedStream(RuleBasedStateMachine):
    """Random submits, cancels, answers and breaks; the server keeps books of its own."""

    calls = Bundle("calls")

    @initialize(
        calls_max=st.integers(1, 6),
        bytes_max=st.integers(100, 500),
        calls_per_message_max=st.integers(1, 4),
        message_bytes_max=st.integers(90, 400),
    )
    def start(self, **sizes: int) -> None:
        self.limits = limits(**sizes)
        self.waiting: WaitingCalls[str] = WaitingCalls(calls_max=8, bytes_max=1000)
        self.submitted = 0
        self.open: set[Call[str]] = set()
        self.outcomes: dict[Call[str], str] = {}
        self.withdrawn_unsent: set[str] = set()
        self.reconnect()

    def reconnect(self) -> None:
        self.stream = WireStream(waiting=self.waiting, limits=self.limits)
        self.server: dict[int, tuple[str, int]] = {}
        self.ids_seen: set[int] = set()

    def end(self, call: Call[str], outcome: str) -> None:
        assert call not in self.outcomes, "two outcomes"
        self.outcomes[call] = outcome
        self.open.remove(call)

    @rule(target=calls, name=NAMES)
    def submit(self, name: str) -> object:
        self.submitted += 1
        call = call_named(f"{self.submitted} {name}")
        if not self.waiting.has_room(call.size):
            return multiple()
        self.waiting.push(call)
        self.open.add(call)
        return call

    @rule(call=consumes(calls))
    def cancel(self, call: Call[str]) -> None:
        if call in self.open:
            if call.place is self.waiting:
                self.withdrawn_unsent.add(call.owner)
            call.withdraw()
            self.end(call, "cancelled")

    @rule()
    def send(self) -> None:
        message = self.stream.pack(0.0)
        for call in self.stream.take_too_large():
            self.end(call, "too large")
        if message is None:
            return
        assert len(message) <= self.limits.message_bytes_max
        request = StreamRequest.FromString(message)
        assert request.calls or request.cancels
        assert len(request.calls) <= self.limits.calls_per_message_max
        for call in request.calls:
            name = call.infer.request.model_name
            assert call.request_id == f"id of {name}"
            assert call.id not in self.ids_seen, "id used again"
            assert name not in self.withdrawn_unsent, "sent after its cancel"
            self.ids_seen.add(call.id)
            self.server[call.id] = (name, call.ByteSize())
        assert len(self.server) <= self.limits.calls_max
        assert len(self.server) == 1 or sum(size for _, size in self.server.values()) <= self.limits.bytes_max

    @rule(data=st.data(), draining=st.booleans())
    def answer(self, data: st.DataObject, draining: bool) -> None:
        ids = data.draw(st.sets(st.sampled_from(sorted(self.server)), min_size=1)) if self.server else []
        response = StreamResponse(draining=draining)
        for call_id in ids:
            name, _ = self.server.pop(call_id)
            response.answers.add(id=call_id).error.message = name
        for call, answer in self.stream.received(response):
            assert answer.error.message == call.owner, "answer of another call"
            self.end(call, "answered")

    @rule()
    def break_and_retry(self) -> None:
        self.waiting.push_first(self.stream.ended())
        self.reconnect()

    @rule()
    def break_and_fail(self) -> None:
        for call in self.stream.ended():
            self.end(call, "lost")
        self.reconnect()

    @invariant()
    def every_open_call_is_somewhere(self) -> None:
        if hasattr(self, "open"):
            assert all(call.place in (self.waiting, self.stream) for call in self.open)
            assert all(call.place is None for call in self.outcomes)

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        self.break_and_retry()
        while self.open:
            self.send()
            ids = list(self.server)
            for call, answer in self.stream.received(answers(*ids)):
                assert answer.id in ids
                self.end(call, "answered")
            self.server.clear()
        assert len(self.waiting) == 0 and self.stream.in_flight == 0


PackedStream.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPackedStream = PackedStream.TestCase
