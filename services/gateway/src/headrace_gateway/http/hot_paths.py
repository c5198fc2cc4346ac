"""Inferences without the framework: what it does for each request costs as much as all the rest of a small inference.

The routes are declared as all others are, for OpenAPI; here one expression finds them and their own functions answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace_client.errors import HeadraceError
from headrace_gateway.http import failures, infer_routes, open_inference_routes
from headrace_gateway.http.dependencies import call_of, front_of, session_of

_HOT = re.compile(r"/v1/infer|/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")


@dataclass(frozen=True, slots=True)
class _Route:
    """Stands for the declared route where requests are counted."""

    path: str


INFER = _Route("/v1/infer")
OPEN_INFER = _Route("/v2/models/{model}/infer")
OPEN_INFER_VERSION = _Route("/v2/models/{model}/versions/{version}/infer")


class HotPaths:
    """Answers inferences itself and leaves all else to the application.

    Args:
        app: The application that declares the routes.
    """

    def __init__(self, *, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The hook of ASGI."""
        found = _HOT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        named = {name: text for name, text in found.groupdict().items() if text is not None}
        scope["app"], scope["path_params"] = self._app, named
        scope["route"] = OPEN_INFER_VERSION if "version" in named else OPEN_INFER if named else INFER
        request = Request(scope, receive, send)
        try:
            response = await _answered(request)
        except HeadraceError as error:
            response = await failures.on_headrace_error(request, error)
        except Exception as error:  # noqa: BLE001 - a defect, which is logged and told as one
            response = await failures.on_unexpected(request, error)
        await response(scope, receive, send)


async def _answered(request: Request) -> Response:
    front, session, call = await front_of(request), await session_of(request), await call_of(request)
    model: str | None = request.path_params.get("model")
    if model is None:
        return await infer_routes.infer(request, front, session, call)
    named = await open_inference_routes.model_in_path(model, request)
    return await open_inference_routes.infer(request, front, session, call, named)
