"""Administrative calls leave an entry each, however they end; reads and inferences leave none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import structlog

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.internal.v1.usage_ingest_pb2 import SpoolRecord
from headrace.quota.v1 import quotas_pb2, tenants_pb2
from headrace.quota.v1.audit_pb2 import AuditEntry
from headrace.registry.v1 import models_pb2
from headrace_common.errors import StorageUnavailable
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.testing import FakeClock
from headrace_gateway.audit_entries import REQUEST_BYTES_MAX, RESOURCE_CHARS_MAX, AuditedMethod
from headrace_gateway.audit_trail import AuditTrail
from headrace_gateway.audited_methods import AUDITED_METHODS
from headrace_gateway.policy import policy
from inference import model_repository_pb2
from support.spools import SEGMENT_BYTES, new_spool, told

TENANTS = "/headrace.quota.v1.TenantService"
MODELS = "/headrace.registry.v1.ModelService"
CALLER = Principal(tenant_id="acme", roles=frozenset({"admin"}), key_id="k1", subject="key:k1")


class Context:
    """What the trail asks of grpc's context."""

    def __init__(self, code: int = 0) -> None:
        self._code = code

    def code(self) -> int:
        return self._code


class Log:
    """Keeps what is written; `full` refuses calls."""

    def __init__(self) -> None:
        self.full = False
        self.entries: list[AuditEntry] = []

    def check_room(self) -> None:
        if self.full:
            raise StorageUnavailable("full")

    def tell_surely(self, record: SpoolRecord) -> None:
        assert record.HasField("audit")
        self.entries.append(record.audit)


class Answers:
    """An endpoint that answers, refuses or is cancelled; it reads all of a stream."""

    gate = AdmissionGate(limit=1)

    def __init__(self, failure: BaseException | None = None, *, streams: bool = False) -> None:
        self._failure = failure
        self._streams = streams
        self.seen: list[bytes] = []

    def handler(self, principal: Principal | None) -> Any:
        assert principal is CALLER

        async def respond(request: Any, context: Any) -> bytes:
            structlog.contextvars.bind_contextvars(request_id="r-7")
            self.seen += [part async for part in request] if self._streams else [request]
            if self._failure is not None:
                raise self._failure
            return b"answer"

        if self._streams:
            return grpc.stream_unary_rpc_method_handler(cast("Any", respond))
        return grpc.unary_unary_rpc_method_handler(cast("Any", respond))


def trail(log: Log) -> AuditTrail:
    return AuditTrail(log=log, gateway_id="gateway-0.a", clock=FakeClock())


async def answered(log: Log, path: str, request: bytes, endpoint: Answers, code: int = 0) -> bytes:
    handler: Any = trail(log).over({path: endpoint})[path].handler(CALLER)
    return await handler.unary_unary(request, Context(code))


def entry_of(path: str, request: Any) -> AuditEntry:
    method = AuditedMethod(path=path, resource=AUDITED_METHODS[path] or (), gateway_id="g")
    return method.entry(
        request=request.SerializeToString(), principal=CALLER, outcome="OK", request_id="r", now=FakeClock().now()
    )


def test_every_method_says_whether_it_is_audited() -> None:
    assert set(AUDITED_METHODS) == set(policy(reflection=None))


@pytest.mark.parametrize("path", [path for path, fields in AUDITED_METHODS.items() if fields is not None])
def test_the_fields_that_name_a_resource_are_the_contracts(path: str) -> None:
    method = AuditedMethod(path=path, resource=AUDITED_METHODS[path] or (), gateway_id="g")
    entry = method.entry(request=b"", principal=CALLER, outcome="OK", request_id="r", now=FakeClock().now())
    assert (entry.resource, entry.request_json) == ("", "{}")


def test_whatever_reads_is_not_audited() -> None:
    audited = {path.rpartition("/")[2] for path, fields in AUDITED_METHODS.items() if fields is not None}
    assert not [name for name in audited if name.startswith(("Get", "List", "Watch", "Server", "Download", "Model"))]
    assert {"CreateApiKey", "SetLimits", "UploadVersion", "DrainRunner", "RepositoryModelUnload"} <= audited


async def test_an_answered_call_leaves_an_entry_of_who_did_what() -> None:
    log = Log()
    request = tenants_pb2.SuspendTenantRequest(id="rival").SerializeToString()
    assert await answered(log, f"{TENANTS}/SuspendTenant", request, Answers()) == b"answer"
    (entry,) = log.entries
    assert (entry.tenant_id, entry.actor, entry.method) == ("acme", "key:k1", f"{TENANTS}/SuspendTenant")
    assert (entry.resource, entry.outcome, entry.request_id) == ("rival", "OK", "r-7")
    assert (entry.gateway_id, json.loads(entry.request_json)) == ("gateway-0.a", {"id": "rival"})
    assert entry.event_time.ToDatetime().timestamp() == FakeClock().now().replace(tzinfo=None).timestamp()


@pytest.mark.parametrize(
    ("failure", "code", "outcome"),
    [
        (grpc.aio.AbortError(), grpc.StatusCode.NOT_FOUND.value[0], "NOT_FOUND"),
        (asyncio.CancelledError(), 0, "CANCELLED"),
        (RuntimeError("defect"), 0, "UNKNOWN"),
    ],
)
async def test_a_call_that_fails_leaves_how(failure: BaseException, code: int, outcome: str) -> None:
    log = Log()
    with pytest.raises(type(failure)):
        await answered(log, f"{TENANTS}/RevokeApiKey", b"", Answers(failure), code)
    assert [entry.outcome for entry in log.entries] == [outcome]


async def test_a_read_goes_by_untouched() -> None:
    log, endpoint = Log(), Answers()
    assert trail(log).over({f"{TENANTS}/GetTenant": endpoint}) == {f"{TENANTS}/GetTenant": endpoint}


async def test_an_upload_is_passed_whole_and_leaves_its_header_alone() -> None:
    log, endpoint = Log(), Answers(streams=True)
    path = f"{MODELS}/UploadVersion"
    header = models_pb2.UploadVersionRequest(header=models_pb2.UploadHeader(model="resnet", version=3, size_bytes=4))
    parts = [header.SerializeToString(), models_pb2.UploadVersionRequest(chunk=b"\x00\x01").SerializeToString()]

    async def requests() -> Any:
        for part in parts:
            yield part

    handler: Any = trail(log).over({path: endpoint})[path].handler(CALLER)
    assert await handler.stream_unary(requests(), Context()) == b"answer"
    assert endpoint.seen == parts
    (entry,) = log.entries
    assert (entry.resource, json.loads(entry.request_json)["header"]["model"]) == ("resnet/3", "resnet")


async def test_bytes_are_left_out() -> None:
    entry = entry_of(f"{MODELS}/UploadVersion", models_pb2.UploadVersionRequest(chunk=b"secret"))
    assert entry.request_json == "{}"
    load = model_repository_pb2.RepositoryModelLoadRequest(model_name="m")
    load.parameters["file:1/model.onnx"].bytes_param = b"secret"
    load.parameters["config"].string_param = "{}"
    kept = json.loads(entry_of("/inference.GRPCInferenceService/RepositoryModelLoad", load).request_json)
    assert kept == {"model_name": "m", "parameters": {"file:1/model.onnx": {}, "config": {"string_param": "{}"}}}


def test_long_and_odd_requests_are_kept_within_bounds() -> None:
    entry = entry_of(f"{MODELS}/CreateModel", models_pb2.CreateModelRequest(name="é\x00\n" * 5_000))
    assert len(entry.request_json.encode()) <= REQUEST_BYTES_MAX
    assert len(entry.resource) == RESOURCE_CHARS_MAX
    assert entry.resource.isprintable() and "\x00" not in entry.request_json
    odd = tenants_pb2.CreateApiKeyRequest(tenant_id="acme")
    odd.expire_time.seconds = 10**18
    assert "1000000000000000000" in entry_of(f"{TENANTS}/CreateApiKey", odd).request_json


def test_what_is_no_message_is_an_entry_without_a_resource() -> None:
    path = "/headrace.gateway.v1.MeshService/DrainRunner"
    method = AuditedMethod(path=path, resource=("id",), gateway_id="g")
    request = mesh_pb2.DrainRunnerRequest(id="runner").SerializeToString() + b"\xff"
    entry = method.entry(request=request, principal=CALLER, outcome="X", request_id="r", now=FakeClock().now())
    assert (entry.resource, entry.request_json) == ("", "{}")


def test_a_call_is_refused_that_could_not_be_written_down() -> None:
    log = Log()
    log.full = True
    path = "/headrace.quota.v1.QuotaService/DeletePlan"
    endpoint = trail(log).over({path: Answers()})[path]
    with pytest.raises(StorageUnavailable):
        endpoint.handler(CALLER)
    assert not log.entries


def test_a_spool_takes_entries_beyond_its_bound_and_tells_them_in_order(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=2)
    entry = entry_of("/headrace.quota.v1.QuotaService/DeletePlan", quotas_pb2.DeletePlanRequest(name="p" * 4_000))
    written = 0
    with pytest.raises(StorageUnavailable):
        while True:
            spool.check_room()
            spool.tell_surely(SpoolRecord(audit=entry))
            written += 1
    while spool.held_bytes < 3 * SEGMENT_BYTES:
        spool.tell_surely(SpoolRecord(audit=entry))
        written += 1
    records = told(spool).records
    assert [record.audit for record in records] == [entry] * written
    assert [record.sequence for record in records] == list(range(1, written + 1))
    spool.close(empty=True)
