"""Every route of an HTTP front has a line here: what decides about its callers. A route without one fails.

A front decides nothing itself: a route's policy is that of the RPC that it begins with, asked for with the caller's own
credential. What needs none is listed by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from headrace_client import rpcs
from headrace_gateway.http.app import ROUTERS
from headrace_gateway.http.dependencies import session_for, session_of
from headrace_gateway.policy import Access, policy

KEYLESS = {
    *("GET /health", "GET /ready", "GET /q/health", "GET /q/health/live", "GET /q/health/ready"),
    *("GET /metrics", "GET /q/metrics", "GET /docs", "GET /errors/{reason}"),
    *("GET /v2/health/live", "GET /v2/health/ready"),
}
PACKED, TRITON_STREAM = rpcs.STREAM.path, "/inference.GRPCInferenceService/ModelStreamInfer"
VERSION = "/v2/models/{model}/versions/{version}"
MODEL, TENANT = "/v1/models/{model}", "/v1/tenants/{tenant}"
DECIDED_BY: dict[str, str] = {
    "GET /info": rpcs.SERVER_METADATA.path,
    "POST /v1/infer": PACKED,
    "POST /v1/infer/batch": PACKED,
    "POST /v1/infer/async": rpcs.SUBMIT_INFERENCE.path,
    "GET /v1/infer/async/{job_id}": rpcs.GET_JOB.path,
    "POST /v1/infer/stream": TRITON_STREAM,
    **dict.fromkeys(("POST /v1/chat/completions", "POST /openai/v1/chat/completions"), rpcs.GENERATE.path),
    **dict.fromkeys(("POST /v1/completions", "POST /openai/v1/completions"), rpcs.GENERATE.path),
    **dict.fromkeys(("POST /v1/embeddings", "POST /openai/v1/embeddings"), PACKED),
    "GET /openai/v1/models": rpcs.LIST_MODELS.path,
    "GET /openai/v1/models/{model}": rpcs.GET_MODEL.path,
    "POST /v2/repository/index": rpcs.REPOSITORY_INDEX.path,
    "POST /v2/repository/models/{model}/load": rpcs.LOAD_MODEL.path,
    "POST /v2/repository/models/{model}/unload": rpcs.UNLOAD_MODEL.path,
    **dict.fromkeys(("GET /v2", "GET /v2/"), rpcs.SERVER_METADATA.path),
    "GET /v2/models/stats": rpcs.MODEL_STATISTICS.path,
    **dict.fromkeys(("GET /v2/models/{model}", f"GET {VERSION}"), rpcs.MODEL_METADATA.path),
    **dict.fromkeys(("GET /v2/models/{model}/ready", f"GET {VERSION}/ready"), rpcs.MODEL_READY.path),
    **dict.fromkeys(("GET /v2/models/{model}/config", f"GET {VERSION}/config"), rpcs.MODEL_CONFIG.path),
    **dict.fromkeys(("GET /v2/models/{model}/stats", f"GET {VERSION}/stats"), rpcs.MODEL_STATISTICS.path),
    **dict.fromkeys(("POST /v2/models/{model}/infer", f"POST {VERSION}/infer"), PACKED),
    **dict.fromkeys(("POST /v2/models/{model}/generate", f"POST {VERSION}/generate"), TRITON_STREAM),
    **dict.fromkeys(("POST /v2/models/{model}/generate_stream", f"POST {VERSION}/generate_stream"), TRITON_STREAM),
    "POST /v1/models": rpcs.UPLOAD_VERSION.path,
    "GET /v1/models": rpcs.LIST_MODELS.path,
    f"GET {MODEL}": rpcs.GET_MODEL.path,
    f"GET {MODEL}/manifest": rpcs.GET_VERSION.path,
    f"GET {MODEL}/versions": rpcs.LIST_VERSIONS.path,
    f"GET {MODEL}/versions/{{version}}": rpcs.GET_VERSION.path,
    f"GET {MODEL}/versions/{{version}}/manifest": rpcs.GET_VERSION.path,
    f"POST {MODEL}/versions/{{version}}/archive": rpcs.ARCHIVE_VERSION.path,
    f"GET {MODEL}/versions/{{version}}/files/{{path}}": rpcs.DOWNLOAD_VERSION.path,
    "GET /v1/tenant": rpcs.GET_TENANT.path,
    "POST /v1/tenants": rpcs.CREATE_TENANT.path,
    "GET /v1/tenants": rpcs.LIST_TENANTS.path,
    f"GET {TENANT}": rpcs.GET_TENANT.path,
    f"PATCH {TENANT}": rpcs.UPDATE_TENANT.path,
    f"POST {TENANT}/suspend": rpcs.SUSPEND_TENANT.path,
    f"POST {TENANT}/resume": rpcs.RESUME_TENANT.path,
    **dict.fromkeys(("GET /v1/limits", f"GET {TENANT}/limits"), rpcs.GET_LIMITS.path),
    f"PUT {TENANT}/limits": rpcs.SET_LIMITS.path,
    **dict.fromkeys(("GET /v1/quota-usage", f"GET {TENANT}/quota-usage"), rpcs.GET_QUOTA_USAGE.path),
    f"POST {TENANT}/quota-usage/reset": rpcs.RESET_QUOTA_USAGE.path,
    "GET /v1/quota-statistics": rpcs.GET_QUOTA_STATISTICS.path,
    "GET /v1/plans": rpcs.LIST_PLANS.path,
    "GET /v1/plans/{plan}": rpcs.GET_PLAN.path,
    "PUT /v1/plans/{plan}": rpcs.SET_PLAN.path,
    "DELETE /v1/plans/{plan}": rpcs.DELETE_PLAN.path,
    "POST /v1/keys": rpcs.CREATE_API_KEY.path,
    "GET /v1/keys": rpcs.LIST_API_KEYS.path,
    "POST /v1/keys/{key_id}/rotate": rpcs.ROTATE_API_KEY.path,
    "DELETE /v1/keys/{key_id}": rpcs.REVOKE_API_KEY.path,
    "GET /v1/usage/requests": rpcs.LIST_REQUESTS.path,
    "GET /v1/usage/summary": rpcs.SUMMARIZE_USAGE.path,
    "GET /v1/runner-events": rpcs.LIST_RUNNER_EVENTS.path,
    "GET /v1/audit": rpcs.LIST_AUDIT_ENTRIES.path,
    "GET /v1/runners": rpcs.LIST_RUNNERS.path,
    "POST /v1/runners/{runner}/drain": rpcs.DRAIN_RUNNER.path,
}
# The job service has none yet: without it the gateway refuses these methods as unknown.
WITHOUT_A_SERVICE = {rpcs.SUBMIT_INFERENCE.path, rpcs.GET_JOB.path}


def routes() -> Iterator[tuple[str, APIRoute]]:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                yield f"{method} {route.path}", route


def asks_the_gateway(route: APIRoute) -> bool:
    """Whether the route has a session of its caller's, without which it can't call anything."""
    for_feature = session_for("x").__qualname__
    calls = [dependency.call for dependency in route.dependant.dependencies]
    return any(call is session_of or getattr(call, "__qualname__", "") == for_feature for call in calls)


def test_every_route_has_a_line_and_every_line_a_route() -> None:
    declared = {name for name, _ in routes()}
    assert declared - KEYLESS - set(DECIDED_BY) == set(), "say here what decides about the callers of these routes"
    assert (KEYLESS | set(DECIDED_BY)) - declared == set(), "these routes are gone"
    assert not KEYLESS & set(DECIDED_BY)


@pytest.mark.parametrize("path", sorted(set(DECIDED_BY.values()) - WITHOUT_A_SERVICE))
def test_what_decides_has_a_policy_that_demands_a_role(path: str) -> None:
    assert policy(reflection=None)[path] is not Access.PUBLIC


def test_routes_ask_with_their_callers_credential() -> None:
    strangers = {name for name, route in routes() if not asks_the_gateway(route)}
    assert strangers <= KEYLESS


def test_every_route_has_a_line_or_an_example_in_the_document() -> None:
    """But for the forms with a version, which one sentence there tells of."""
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    missing: list[str] = []
    for name, route in routes():
        path = re.sub(r"\\\{[^}]+\\\}", r"[^/\\s`'\"]+", re.escape(route.path.rstrip("/")))
        if not re.search(rf"(?:[A-Z] |:8080|`){path}(?=[\s`'\"?])", text) and not route.path.startswith(VERSION):
            missing.append(name)
    assert missing == []
