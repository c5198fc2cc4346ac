"""A gateway's inside without its listeners, and a runner's session that a test speaks for."""

from __future__ import annotations

from random import Random
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_gateway.accounting.call_accounts import Book, CallAccounts
from headrace_gateway.catalog import Catalog
from headrace_gateway.features import Features
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience_metrics import ResilienceMetrics
from headrace_gateway.inference.routing import Router
from headrace_gateway.inference.routing_rules import RoutingRules
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement import Wants
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.quota.lease_book import LeaseBook
from support.call_log import ListedCalls
from support.placement import placement

MIB = 1 << 20


class GatewayCore:
    """What a gateway process decides with; `policy` changes the default placement.

    Attributes:
        log: What is written down of the calls.
        aggregated: Tenants whose streams are summed up.
    """

    def __init__(
        self,
        *,
        limits: ResilienceLimits = ResilienceLimits(),  # noqa: B008 - frozen
        book: Book | None = None,
        **policy: Any,
    ) -> None:
        registry = CollectorRegistry()
        self.clock = FakeClock()
        self.catalog = Catalog()
        self.catalog.replace([])
        self.metrics = GatewayMetrics(registry=registry)
        self.directory = RunnerDirectory(clock=self.clock)
        self.wants = Wants(
            catalog=self.catalog,
            directory=self.directory,
            sign_ticket=lambda version: version.uid,
            clock=self.clock,
            policy=placement(**policy),
        )
        self.principals = PrincipalTable()
        self.payloads = PayloadGate(bytes_max=MIB)
        self.dispatcher = Dispatcher(
            directory=self.directory,
            wants=self.wants,
            clock=self.clock,
            router=Router(directory=self.directory, clock=self.clock, random=Random(1), rules=RoutingRules()),
            random=Random(1),
            limits=limits,
        )
        ResilienceMetrics(dispatcher=self.dispatcher, registry=registry)
        self.registry = registry
        self.log = ListedCalls()
        self.aggregated: set[str] = set()
        self.accounts = CallAccounts(
            log=self.log,
            book=book or LeaseBook(limits_of=lambda _tenant_id: (), clock=self.clock, wake=lambda: None),
            aggregates=self.aggregated.__contains__,
            clock=self.clock,
        )
        self.handler = InferenceHandler(
            catalog=self.catalog,
            features=Features(table=self.principals),
            dispatcher=self.dispatcher,
            accounts=self.accounts,
            payloads=self.payloads,
            metrics=self.metrics,
            clock=self.clock,
            message_bytes_max=MIB,
            call_timeout_s=30.0,
            generate_timeout_s=600.0,
        )

    def pass_time(self, seconds: float) -> None:
        """Moves the clock on in small steps, with what a gateway does all the time."""
        step_s = 0.025
        while seconds > 0:
            self.clock.advance(min(step_s, seconds))
            seconds -= step_s
            self.handler.end_overdue()
            self.dispatcher.tick()

    def register(
        self, model: str, number: int = 1, *, tenant_id: str = "acme", manifest: manifest_pb2.Manifest | None = None
    ) -> str:
        """Makes a version known, and returns its uid."""
        version = models_pb2.Version(
            uid=f"{tenant_id}/{model}/{number}",
            model=model,
            version=number,
            state=models_pb2.VERSION_STATE_READY,
            manifest=manifest or manifest_pb2.Manifest(backend="onnxruntime", batched=True),
        )
        self.catalog.apply([CatalogEntry(tenant_id=tenant_id, version=version)])
        return version.uid

    def join(self, name: str = "runner-0") -> Runner:
        """A runner comes, with nothing loaded and room for calls."""
        session = RunnerSession(
            hello=mesh_pb2.Hello(
                runner_name=name,
                boot_uuid="boot",
                device=mesh_pb2.Device(type="cpu"),
                backends=["onnxruntime"],
            ),
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=MIB),
            clock=self.clock,
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        credit = mesh_pb2.Credit(messages=1_000, payload_bytes=MIB)
        session.calls.on_result_frame(mesh_pb2.ResultFrame(credit=credit))
        self.directory.add(session)
        return Runner(session)


class Runner:
    """What a runner would say in its session."""

    def __init__(self, session: RunnerSession) -> None:
        self.session = session
        self.cancelled: list[int] = []
        self._received: list[mesh_pb2.Call] = []

    def tell(
        self,
        uid: str,
        state: gateway_pb2.ModelState.ValueType,
        *,
        failure: HeadraceError | None = None,
        released: bool = False,
        slots: int = 0,
    ) -> None:
        """Tells a version's state."""
        status = to_status(failure).SerializeToString() if failure is not None else b""
        event = mesh_pb2.ModelEvent(version_uid=uid, state=state, status=status, released=released, memory_bytes=1000)
        event.execution_slots = slots
        self.session.on_event(mesh_pb2.RunnerEvent(model=event))

    def loaded(self, uid: str, *, slots: int = 0) -> None:
        """Has a version in memory from now on."""
        self.tell(uid, gateway_pb2.MODEL_STATE_LOADED, slots=slots)

    def commands(self) -> list[mesh_pb2.GatewayCommand]:
        """What it was told on the control lane since the last look."""
        found: list[mesh_pb2.GatewayCommand] = []
        while not self.session.commands.empty():
            found.append(self.session.commands.get_nowait())
        return found

    def received(self) -> list[mesh_pb2.Call]:
        """Calls that it has and has not answered."""
        while (sent := self.session.calls.next_small_frame()) is not None:
            frame = mesh_pb2.CallFrame.FromString(sent)
            self._received += frame.calls
            self.cancelled += frame.cancels
        return list(self._received)

    def forget(self, call: mesh_pb2.Call) -> None:
        """The test ends the call itself."""
        self._received.remove(call)

    def part(self, call: mesh_pb2.Call, payload: bytes) -> None:
        """Sends a part of an answer."""
        result = mesh_pb2.Result(id=call.id, attempt=call.attempt, payload=payload, payload_bytes=len(payload))
        self.session.on_results(mesh_pb2.ResultFrame(results=[result]))

    def answer(
        self,
        call: mesh_pb2.Call,
        payload: bytes = b"",
        *,
        failure: HeadraceError | None = None,
        rows: int = 1,
        compute_us: int = 100,
        calls: int = 1,
        share_us: int | None = None,
    ) -> None:
        """Ends a call."""
        self._received.remove(call)
        result = mesh_pb2.Result(
            id=call.id,
            attempt=call.attempt,
            terminal=True,
            status=to_status(failure).SerializeToString() if failure is not None else b"",
            payload=payload,
            payload_bytes=len(payload),
            queue_us=10,
            compute_us=compute_us,
            input_us=20,
            output_us=30,
            batch_rows=rows,
            batch_calls=calls,
            leads_batch=True,
            share_us=share_us,
        )
        self.session.on_results(mesh_pb2.ResultFrame(results=[result]))
