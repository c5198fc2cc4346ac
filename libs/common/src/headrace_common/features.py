"""What an operator can switch off for a tenant: the names that quota accepts and gateways know."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FEATURE_PREFIX = "feature."
"""Begins the key of a pair of a tenant's metadata that switches a feature."""
ON, OFF = "on", "off"
FEATURE_KEY = "x-headrace-feature"
"""Metadata that names the features which a call is part of, with commas between. A front says so of the calls that it
makes for others. It is believed of everybody, since all it can bring is a refusal."""

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "http": "Everything by way of an HTTP front.",
        "openai": "The OpenAI routes of HTTP fronts.",
        "batch": "Many inferences in one request: `InferBatch` and `POST /v1/infer/batch`.",
        "async": "Inferences that are accepted now and fetched later: submitting jobs and `POST /v1/infer/async`.",
        "stream": "Answers in parts of one inference: `ModelStreamInfer` and `POST /v1/infer/stream`.",
        "generate": "Text generation: `Generate`, and all that rests on it, chat and completions among it.",
        "upload": "Uploads of model versions: `UploadVersion` and `POST /v1/models`.",
    }
)
"""Features and what each is. All are on unless switched off."""


def switches(metadata: Mapping[str, str]) -> dict[str, str]:
    """The pairs of a tenant's metadata that switch features, by the features' names."""
    return {
        key.removeprefix(FEATURE_PREFIX): value for key, value in metadata.items() if key.startswith(FEATURE_PREFIX)
    }
