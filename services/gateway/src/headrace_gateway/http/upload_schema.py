"""What OpenAPI says of an upload, whose form the route reads itself."""

from __future__ import annotations

from typing import Any, Final

UPLOAD: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name", "file"],
                    "properties": {
                        "name": {"type": "string", "description": "The model; it is created when it doesn't exist."},
                        "version": {"type": "string", "pattern": "^[0-9]{1,19}$"},
                        "manifest": {"type": "string", "contentMediaType": "application/json"},
                        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        "file": {"type": "string", "format": "binary", "description": "The model's file."},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "description": {"type": "string"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}
"""`openapi_extra` of the route."""
