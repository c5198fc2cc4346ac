"""Plans, limits and usage by REST, on the mesh that all tests share."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from headrace.gateway.v1 import inference_pb2
from headrace.quota.v1 import quotas_pb2, tenants_pb2
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.mesh import Mesh
from support.parties import Party, Tenant, operator, until

DAILY: dict[str, Any] = {"resource": "RESOURCE_REQUESTS", "window": "WINDOW_DAY", "amount": 100}
STORED = {"model": "", "burst": 0, "algorithm": "RATE_ALGORITHM_UNSPECIFIED", **DAILY}


def as_client(mesh: Mesh, party: Party) -> httpx.Client:
    assert mesh.http is not None
    return httpx.Client(base_url=mesh.http, headers=dict(party.metadata), timeout=60)


def refusal(http: httpx.Client, path: str, body: dict[str, object]) -> httpx.Response:
    """The first answer that says that there is too much of it; one that tells of a passing trouble is none."""
    answers: list[httpx.Response] = []

    def refused() -> bool:
        answers.append(http.post(path, json=body))
        return answers[-1].status_code == 429

    until(refused)
    return answers[-1]


@pytest.fixture(scope="module")
def channel(mesh: Mesh) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def tenant(mesh: Mesh, channel: grpc.Channel) -> Tenant:
    return operator(mesh, channel).tenant()


@pytest.fixture
def admin(mesh: Mesh, tenant: Tenant) -> Iterator[httpx.Client]:
    with as_client(mesh, tenant.admin) as client:
        yield client


@pytest.fixture
def operators(mesh: Mesh, channel: grpc.Channel) -> Iterator[httpx.Client]:
    with as_client(mesh, operator(mesh, channel)) as client:
        yield client


def reason(answer: httpx.Response) -> tuple[int, str, str | None]:
    document = answer.json()
    return answer.status_code, document["errorCode"], document["context"].get("field")


def test_limits_are_set_shown_counted_and_reset(admin: httpx.Client, operators: httpx.Client, tenant: Tenant) -> None:
    path = f"/v1/tenants/{tenant.id}"
    rate = {"resource": "RESOURCE_TOKENS", "window": "WINDOW_RATE", "amount": "5", "period": "2.500s"}
    stored = operators.put(f"{path}/limits", json={"limits": [DAILY, rate]}).json()
    assert STORED in stored["limits"]
    (kept,) = (limit for limit in stored["limits"] if limit["window"] == "WINDOW_RATE")
    assert (kept["amount"], kept["period"], kept["burst"]) == (5, "2.500s", 5)
    shown = admin.get("/v1/limits").json()
    assert (shown["plan"], shown["limits"]) == ("standard", stored["limits"])
    assert admin.get(f"{path}/limits").json() == shown
    usages = {usage["limit"]["window"]: usage for usage in admin.get("/v1/quota-usage").json()["usages"]}
    assert usages.keys() == {"WINDOW_DAY", "WINDOW_RATE"}
    assert (usages["WINDOW_DAY"]["used"], usages["WINDOW_DAY"]["own"]) == (0, True)
    assert "resetTime" in usages["WINDOW_DAY"] and "resetTime" not in usages["WINDOW_RATE"]
    assert admin.get(f"{path}/quota-usage").status_code == 200
    assert operators.post(f"{path}/quota-usage/reset").json() == {"counters": 1}
    assert operators.get("/v1/quota-statistics", params={"tenantsMax": 1}).json()["tenantsLimited"] >= 1
    assert operators.put(f"{path}/limits", json={"limits": []}).json() == {"limits": []}


def test_plan_is_made_changed_listed_and_deleted(operators: httpx.Client) -> None:
    name = f"plan-{secrets.token_hex(6)}"
    made = operators.put(f"/v1/plans/{name}", json={"limits": [DAILY], "aggregateStreams": True}).json()
    assert (made["name"], made["displayName"], made["limits"]) == (name, name, [STORED])
    assert operators.get(f"/v1/plans/{name}").json() == made
    changed = operators.put(f"/v1/plans/{name}", json={"displayName": "New", "limits": []}).json()
    assert (changed["displayName"], changed["limits"], changed["aggregateStreams"]) == ("New", [], False)
    assert name in {plan["name"] for plan in operators.get("/v1/plans", params={"pageSize": 1000}).json()["plans"]}
    gone = operators.delete(f"/v1/plans/{name}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert reason(operators.delete(f"/v1/plans/{name}"))[:2] == (404, "PLAN_NOT_FOUND")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"amount": -1}, (400, "FIELD_INVALID", "limits[0].amount")),
        ({"amount": 0}, (400, "FIELD_INVALID", "limits[0].amount")),
        ({"amount": 10**15 + 1}, (400, "FIELD_INVALID", "limits[0].amount")),
        ({"amount": 2**63}, (400, "FIELD_INVALID", "limits.amount")),
        ({"amount": 1.5}, (400, "FIELD_INVALID", "limits.amount")),
        ({"amount": "many"}, (400, "FIELD_INVALID", "limits.amount")),
        ({"resource": "RESOURCE_SEATS"}, (400, "FIELD_INVALID", "limits.resource")),
        ({"resource": "RESOURCE_UNSPECIFIED"}, (400, "FIELD_INVALID", "limits[0].resource")),
        ({"window": 99}, (400, "FIELD_INVALID", "limits[0].window")),
        ({"period": "1s"}, (400, "FIELD_INVALID", "limits[0].period")),
        ({"seats": 5}, (400, "FIELD_INVALID", "limits[0]")),
    ],
)
def test_bad_limit_is_refused(
    operators: httpx.Client, tenant: Tenant, limit: dict[str, Any], told: tuple[int, str, str | None]
) -> None:
    answer = operators.put(f"/v1/tenants/{tenant.id}/limits", json={"limits": [DAILY | limit]})
    assert reason(answer) == told


def test_what_is_anothers_is_not_there_and_only_operators_write(admin: httpx.Client, tenant: Tenant) -> None:
    for verb, tail, body in (
        ("GET", "limits", None),
        ("PUT", "limits", {"limits": []}),
        ("GET", "quota-usage", None),
        ("POST", "quota-usage/reset", {}),
    ):
        foreign = admin.request(verb, f"/v1/tenants/community/{tail}", json=body)
        absent = admin.request(verb, f"/v1/tenants/nobody-here/{tail}", json=body)
        assert reason(foreign) == reason(absent) == (404, "TENANT_NOT_FOUND", None), tail
    own = f"/v1/tenants/{tenant.id}"
    assert reason(admin.put(f"{own}/limits", json={"limits": []}))[:2] == (403, "ROLE_FORBIDDEN")
    assert reason(admin.post(f"{own}/quota-usage/reset"))[:2] == (403, "ROLE_FORBIDDEN")
    assert reason(admin.get("/v1/plans"))[:2] == (403, "ROLE_FORBIDDEN")
    assert reason(admin.get("/v1/quota-statistics"))[:2] == (403, "ROLE_FORBIDDEN")
    assert reason(admin.get("/v1/plans/none"))[:2] == (404, "PLAN_NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("/v1/usage/requests", {"startTime": "yesterday"}, (400, "FIELD_INVALID", "startTime")),
        ("/v1/usage/requests", {"status": "REQUEST_STATUS_LOST"}, (400, "FIELD_INVALID", "status")),
        ("/v1/usage/requests", {"pageToken": "x"}, (400, "PAGE_TOKEN_INVALID", "page_token")),
        ("/v1/usage/requests", {"pageSize": "1001"}, (400, "FIELD_INVALID", "pageSize")),
        (
            "/v1/usage/requests",
            {"startTime": "2026-02-01T00:00:00Z", "endTime": "2026-01-01T00:00:00Z"},
            (400, "FIELD_INVALID", "end_time"),
        ),
        ("/v1/usage/summary", {"granularity": "GRANULARITY_WEEK"}, (400, "FIELD_INVALID", "granularity")),
        ("/v1/usage/summary", {"startTime": "2020-01-01T00:00:00Z"}, (400, "FIELD_INVALID", "end_time")),
        ("/v1/audit", {"beforeSequence": "5"}, (400, "FIELD_INVALID", "before_sequence")),
        ("/v1/audit", {"afterSequence": "-1"}, (400, "FIELD_INVALID", "afterSequence")),
        ("/v1/runner-events", {}, (403, "ROLE_FORBIDDEN", None)),
    ],
)
def test_bad_question_about_usage_is_refused(
    admin: httpx.Client, path: str, query: dict[str, str], told: tuple[int, str, str | None]
) -> None:
    assert reason(admin.get(path, params=query)) == told


@pytest.mark.parametrize("path", ["/v1/usage/requests", "/v1/usage/summary", "/v1/audit"])
def test_usage_and_audit_of_another_tenant_are_not_there(
    admin: httpx.Client, operators: httpx.Client, tenant: Tenant, path: str
) -> None:
    foreign = admin.get(path, params={"tenantId": "community"})
    absent = admin.get(path, params={"tenantId": "nobody-here"})
    assert reason(foreign) == reason(absent) == (404, "TENANT_NOT_FOUND", None)
    assert admin.get(path).status_code == operators.get(path, params={"tenantId": tenant.id}).status_code == 200


def test_rows_say_how_their_calls_came(mesh: Mesh, channel: grpc.Channel) -> None:
    party, key_id = operator(mesh, channel).key("community", tenants_pb2.ROLE_USER)
    tensor = oip.ModelInferRequest.InferInputTensor(name="bytes", datatype="INT32", shape=[1, 2048])
    request = oip.ModelInferRequest(model_name="magika", inputs=[tensor], raw_input_contents=[bytes(8_192)])
    infer = inference_pb2.InferRequest(request=request)
    party.infer(request)
    party(party.packed.Infer, infer)
    party(party.packed.InferBatch, inference_pb2.InferBatchRequest(requests=[infer, infer]))
    calls = [inference_pb2.StreamCall(id=number, infer=infer) for number in range(3)]
    answers = party(party.packed.Stream, iter([inference_pb2.StreamRequest(calls=calls)]))
    assert sum(len(message.answers) for message in answers) == 3
    assert len(list(party(party.inference.ModelStreamInfer, iter([request])))) == 1
    values = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [0] * 2048}
    with as_client(mesh, party) as http:
        assert http.post("/v2/models/magika/infer", json={"inputs": [values]}).status_code == 200
        query = {"subject": f"key:{key_id}"}
        rows: list[dict[str, Any]] = []

        def told() -> bool:
            rows[:] = http.get("/v1/usage/requests", params=query).json()["requests"]
            return len(rows) == 9

        until(told)
    # REST's inferences reach the gateway over a packed stream.
    assert Counter(row["kind"] for row in rows) == {"unary": 2, "batch": 2, "stream": 5}


def test_who_is_refused_is_told_limit_use_window_and_when_to_come_again(mesh: Mesh, channel: grpc.Channel) -> None:
    owner = operator(mesh, channel)
    tenant = owner.tenant()
    tenant.admin.push("tiny", onnx_models.identity())
    limit = quotas_pb2.Limit(resource=quotas_pb2.RESOURCE_REQUESTS, window=quotas_pb2.WINDOW_DAY, amount=2)
    owner(owner.quotas.SetLimits, quotas_pb2.SetLimitsRequest(tenant_id=tenant.id, limits=[limit]))
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
    request = oip.ModelInferRequest(model_name="tiny", inputs=[tensor], raw_input_contents=[bytes(16)])
    errors: list[grpc.RpcError] = []

    def told() -> bool:
        # Those before the gateway has heard of the limit are let in.
        try:
            tenant.admin.infer(request)
        except grpc.RpcError as error:
            # A store that stands still for a moment is another answer, and a passing one.
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                errors.append(error)
        return bool(errors)

    until(told)
    failed: Any = errors[0]
    (packed,) = [value for name, value in failed.trailing_metadata() if name == "grpc-status-details-bin"]
    details = {detail.TypeName(): detail for detail in status_pb2.Status.FromString(packed).details}
    info, quota, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.QuotaFailure(),
        error_details_pb2.RetryInfo(),
    )
    for message in (info, quota, retry):
        assert details[message.DESCRIPTOR.full_name].Unpack(message)
    assert (failed.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert (info.metadata["limit"], info.metadata["window"]) == ("2", "day")
    assert info.metadata["quotaType"] == "requests per day" and int(info.metadata["currentUsage"]) >= 2
    assert "limit of 2 requests per day" in quota.violations[0].description
    assert 0 < retry.retry_delay.ToSeconds() <= 86_400
    values = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
    with as_client(mesh, tenant.admin) as http:
        inputs = {"x": {"shape": [1, 4], "dtype": "FP32", "data": [0] * 4}}
        answer = refusal(http, "/v2/models/tiny/infer", {"inputs": [values]})
        refused = refusal(http, "/v1/infer", {"modelId": "tiny", "inputs": inputs}).json()
    assert "limit of 2 requests per day" in answer.json()["error"]
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    context = refused["context"]
    assert (refused["errorCode"], context["limit"], context["window"]) == ("QUOTA_EXCEEDED", "2", "day")
    assert refused["retryAfterSeconds"] > 0
