"""Bodies of requests that have a pydantic model: read strictly, refused by the path of the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from headrace_client import failures
from headrace_client.errors import HeadraceError, ValidationError
from headrace_common import catalogue
from headrace_gateway.http.failures import failed

M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
"""Of every model of a body: no unknown field, no text for a number, no number that JSON lacks."""
COMPLAINT: Final = "complaint"
_SHOWN_CHARACTERS = 64


def parsed(model: type[M], body: bytes) -> M:
    """The body as a model.

    Raises:
        ValidationError: REQUEST_MALFORMED where it is not JSON, else FIELD_REQUIRED or FIELD_INVALID (400).
    """
    try:
        return model.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise refusal(error.errors(include_url=False)[0]) from None


def refusal(problem: Any) -> HeadraceError:
    """What is wrong, by one of pydantic's error details."""
    kind, path = problem["type"], field_path(problem["loc"]) or problem.get("ctx", {}).get("field", "")
    if kind in {"json_invalid", "json_type"}:
        return ValidationError(f"the body is not valid: {problem['msg']}", failures.REQUEST_MALFORMED)
    if kind == "missing":
        return failed(catalogue.FIELD_REQUIRED, f"{path} is missing", field=path)
    if kind == "extra_forbidden":
        return ValidationError(f"there is no field {path} here", field=path)
    message: str = problem["msg"]
    if kind == COMPLAINT:
        return ValidationError(message, field=path or None)
    complaint = message[:1].lower() + message[1:]
    return ValidationError(f"{path}: {complaint}" if path else f"the body: {complaint}", field=path or None)


def complaint(message: str, *, field: str) -> PydanticCustomError:
    """What a validator of several fields raises: the whole message, and the field at fault."""
    return PydanticCustomError(COMPLAINT, "{message}", {"message": message, "field": field})


def field_path(parts: Sequence[int | str]) -> str:
    """`messages[0].content` for its parts."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if len(part) <= _SHOWN_CHARACTERS else f"{part[:_SHOWN_CHARACTERS]}…"
            path += f".{name}" if path else name
    return path


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads such a body itself."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema.pop("$defs", {})
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema, definitions)}}}
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references, which would be to another place of the document."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        reference = str(schema["$ref"])  # pyright: ignore[reportUnknownArgumentType]
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}  # pyright: ignore[reportUnknownVariableType]
