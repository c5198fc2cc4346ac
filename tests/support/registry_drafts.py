"""Versions for tests of the registry's stores, with no bytes behind them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_ONNX, Manifest, TensorSpec
from headrace_registry.models import Content, DraftFile, Segment, VersionDraft

MANIFEST = Manifest(
    format=ARTIFACT_FORMAT_ONNX,
    backend="onnxruntime",
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 16])],
    outputs=[TensorSpec(name="z", datatype="FP32", shape=[-1, 16])],
    batched=True,
)


def content_of(parts: Sequence[bytes]) -> Content:
    """A content whose segments are these parts."""
    return Content(
        sha256=hashlib.sha256(b"".join(parts)).digest(),
        size_bytes=sum(len(part) for part in parts),
        segment_bytes=len(parts[0]),
        segments=tuple(Segment(sha256=hashlib.sha256(part).digest(), size_bytes=len(part)) for part in parts),
    )


def file_of(content: str, path: str = "model.onnx") -> DraftFile:
    """A file whose content is told by a word."""
    return DraftFile(path=path, content=content_of([f"{content} {part}".encode() for part in range(3)]))


def draft(content: str = "content", **fields: Any) -> VersionDraft:
    """A version of the tenant acme with a content of its own; `fields` replace what it would say."""
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "model": "m",
        "version": 0,
        "uid": str(uuid.uuid4()),
        "manifest": MANIFEST,
        "stated_manifest": b"",
        "files": [file_of(content)],
        **fields,
    }
    return VersionDraft(**values)
