"""The tenant's models as OpenAI lists them. Pure."""

from __future__ import annotations

from typing import Any

from headrace_client.contracts.headrace.registry.v1.models_pb2 import Model

OWNER = "headrace"


def model_document(model: Model) -> dict[str, Any]:
    """One model."""
    return {"id": model.name, "object": "model", "created": model.create_time.seconds, "owned_by": OWNER}


def is_listed(model: Model) -> bool:
    """Whether it has a version that can be used."""
    return model.latest_version > 0
