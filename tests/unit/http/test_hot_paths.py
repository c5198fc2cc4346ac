"""Inferences that pass by the framework: the same routes, the same failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from headrace_common.metrics import Metrics
from headrace_common.settings import load_settings
from headrace_gateway.http.app import application, make_front, routes
from headrace_gateway.http.config import HttpSettings
from headrace_gateway.http.front import Front
from headrace_gateway.http.hot_paths import INFER, OPEN_INFER, OPEN_INFER_VERSION


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    """A front whose gateway nobody calls."""
    metrics = Metrics()
    front = make_front(load_settings(HttpSettings, environ={"HEADRACE_HTTP_GATEWAY_ADDRESS": "127.0.0.1:1"}), metrics)
    yield front
    await front.sessions.close()
    await metrics.close()


async def test_hot_paths_are_declared_as_all_others_are(front: Front) -> None:
    paths = routes(front).openapi()["paths"]
    for route in (INFER, OPEN_INFER, OPEN_INFER_VERSION):
        assert "requestBody" in paths[route.path]["post"]
        names = {parameter["name"] for parameter in paths[route.path]["post"].get("parameters", [])}
        assert names == {name for name in ("model", "version") if f"{{{name}}}" in route.path}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "route"),
    [
        ("POST", "/v1/infer", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, INFER),
        ("POST", "/v1/infer", {"headers": {"x-api-key": b"\xe9"}}, 401, INFER),
        ("POST", "/v2/models/m/infer", {"content": b"{"}, 400, OPEN_INFER),
        ("POST", "/v2/models/:/infer", {"content": b"{}"}, 400, OPEN_INFER),
        ("POST", "/v2/models/m%3A1/versions/1/infer", {"content": b"{}"}, 400, OPEN_INFER_VERSION),
        ("POST", "/v2/models/m/infer", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, OPEN_INFER),
        ("GET", "/v1/infer", {}, 405, INFER),
        ("POST", "/v1/infer/", {}, 404, None),
        ("POST", "/v2/models/m/n/infer", {}, 404, None),
    ],
)
async def test_what_is_wrong_is_told_and_counted_as_everywhere(
    method: str, path: str, options: dict[str, Any], status: int, route: Any, front: Front
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application(front)), base_url="http://h") as client:
        answer = await client.request(method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    assert answer.json().keys() >= ({"error"} if path.startswith("/v2") else {"errorCode", "requestId"})
    if route is not None:
        labels = {"method": method, "route": route.path, "status": str(status)}
        assert front.registry.get_sample_value("headrace_http_requests_total", labels) == 1


async def test_a_defect_is_told_without_its_words(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(front.sessions, "session", broken)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application(front)), base_url="http://h") as client:
        answer = await client.post("/v1/infer", json={})
    assert (answer.status_code, answer.json()["errorCode"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
