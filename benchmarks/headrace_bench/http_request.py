"""The same inference as over gRPC, as HTTP requests: each with its row as bytes, not as text of numbers."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_bench.models import BenchModel

_HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """A POST.

    Attributes:
        headers: Without the caller's key and the length of the body.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes

    def raw(self, *, host: str, api_key: str) -> bytes:
        """What goes over the connection."""
        told = {"host": host, "x-api-key": api_key, "content-length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        return "\r\n".join(lines).encode() + self.body


def infer(model: BenchModel) -> HttpRequest:
    """`/v1/infer`, tensors as base64 both ways."""
    row = model.rows(1)
    tensor = {"shape": row.shape, "dtype": "FP32", "data": b64encode(row.tobytes()).decode()}
    document = {"modelId": model.name, "inputs": {"x": tensor}, "outputEncoding": "base64"}
    return HttpRequest(
        path="/v1/infer", headers={"content-type": "application/json"}, body=json.dumps(document).encode()
    )


def open_infer(model: BenchModel) -> HttpRequest:
    """`/v2/models/{model}/infer`, tensors behind the JSON both ways."""
    row = model.rows(1)
    tensor = {"name": "x", "datatype": "FP32", "shape": row.shape, "parameters": {"binary_data_size": row.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return HttpRequest(
        path=f"/v2/models/{model.name}/infer",
        headers={"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(header))},
        body=header + row.tobytes(),
    )


def output_of(headers: Mapping[str, str], body: bytes) -> bytes:
    """The output's bytes in an answer to either; `headers` by their names in small letters."""
    if _HEADER_LENGTH in headers:
        return body[int(headers[_HEADER_LENGTH]) :]
    document: dict[str, Any] = json.loads(body)
    return b64decode(document["outputs"]["z"]["data"])
