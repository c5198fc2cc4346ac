"""Failures in OpenAI's shape and with its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headrace_client.errors import HeadraceError

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Codes that clients of OpenAI look for; others are our own reasons.
_CODES: Mapping[str, str] = {
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
    "CREDENTIAL_MISSING": "invalid_api_key",
    "CREDENTIAL_UNKNOWN": "invalid_api_key",
    "CREDENTIAL_MALFORMED": "invalid_api_key",
    "KEY_REVOKED": "invalid_api_key",
    "KEY_EXPIRED": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
    "QUOTA_EXCEEDED": "insufficient_quota",
    "RATE_LIMIT_EXCEEDED": "rate_limit_exceeded",
}
# The mesh's names of fields, where OpenAI has others.
_PARAMS: Mapping[str, str] = {
    "chat": "messages",
    "completions": "n",
    "ignore_end": "ignore_eos",
    "json_schema": "response_format",
    "model_name": "model",
    "model_version": "model",
    "session": "prompt_cache_key",
    "text": "prompt",
    "token_ids": "prompt",
}
_HEAD = re.compile(r"(?:sampling\.)?(?P<name>[a-z_]+)(?P<rest>.*)", re.DOTALL)
_REST = {"chat.messages": "messages", "token_ids.ids": "prompt"}


def error_body(error: HeadraceError, status: int) -> dict[str, Any]:
    """A failure as OpenAI tells it, whose HTTP status is `status`."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = _CODES.get(error.reason, error.reason.lower())
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": code}}


def in_openai_terms(error: HeadraceError) -> HeadraceError:
    """The same failure, with the name that the request has for the field at fault."""
    if error.field:
        param = param_of(error.field)
        if "." in error.field:
            error.message = error.message.replace(error.field, param)
        elif error.message.startswith(f"{error.field} "):
            # Elsewhere a word such as `text` means no field.
            error.message = param + error.message[len(error.field) :]
        error.field = param
    return error


def param_of(field: str) -> str:
    """OpenAI's name for a field of the mesh: `temperature` for `sampling.temperature`."""
    for ours, theirs in _REST.items():
        if field.startswith(ours):
            return theirs + field[len(ours) :]
    matched = _HEAD.fullmatch(field)
    if matched is None:
        return field
    return _PARAMS.get(matched["name"], matched["name"]) + matched["rest"]
