"""What is wrong with a manifest, said with the path of the field."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError

ROOT = "header.manifest"


def wrong(field: str, why: str) -> ModelError:
    """MODEL_MANIFEST_INVALID: the field can't be right whatever the file says. An empty name is the manifest itself."""
    path = _path(field)
    return ModelError(f"{path} {why}", entry=catalogue.MODEL_MANIFEST_INVALID, context={"field": path}, field=path)


def mismatch(field: str, why: str) -> ModelError:
    """MODEL_MANIFEST_MISMATCH: the field contradicts the file."""
    path = _path(field)
    return ModelError(f"{path} {why}", entry=catalogue.MODEL_MANIFEST_MISMATCH, context={"field": path}, field=path)


def broken_text(error: HeadraceError) -> ModelError:
    """A broken rule for texts, said as a fault of the manifest."""
    return ModelError(error.message, entry=catalogue.MODEL_MANIFEST_INVALID, context=error.context, field=error.field)


def _path(field: str) -> str:
    return f"{ROOT}.{field}" if field else ROOT
