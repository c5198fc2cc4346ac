"""What the front says of itself as OpenAPI: the routes' own words, with the one way in which each of them fails."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headrace_gateway.http.failures import Protocol, protocol_of
from headrace_gateway.http.infer_schema import FAILURE

Document = dict[str, Any]

_OPEN_INFERENCE: Final[Document] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_OPENAI: Final[Document] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_FAILURES: Final = {Protocol.OWN: FAILURE, Protocol.OPEN_INFERENCE: _OPEN_INFERENCE, Protocol.OPENAI: _OPENAI}
_SECURITY: Final[Document] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
# FastAPI's own words for a body that isn't as it should be; ours are others.
_FOREIGN: Final = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> None:
    """Has an application describe itself in this way; made once, when it is first asked for."""

    def openapi() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi


def _described(app: FastAPI) -> Document:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            responses: Document = operation["responses"]
            responses.pop("422", None)
            failure = {"application/json": {"schema": _FAILURES[protocol_of(path)]}}
            responses["default"] = {"description": "A failure", "content": failure}
    components: Document = document.setdefault("components", {})
    for name in _FOREIGN:
        components.get("schemas", {}).pop(name, None)
    components["securitySchemes"] = _SECURITY
    document["security"] = [{name: []} for name in _SECURITY]
    return document
