"""Between the domain's words and the contract's messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.registry.v1 import models_pb2 as pb
from headrace_registry.models import Model, Version, VersionFile, VersionState

_STATES: dict[VersionState, pb.VersionState.ValueType] = {
    VersionState.READY: pb.VERSION_STATE_READY,
    VersionState.ARCHIVED: pb.VERSION_STATE_ARCHIVED,
}


def model_message(model: Model) -> pb.Model:
    """A model as the contract shows it."""
    return pb.Model(
        name=model.name,
        description=model.description,
        metadata=model.metadata,
        create_time=_timestamp(model.create_time),
        latest_version=model.latest_version,
    )


def version_message(version: Version) -> pb.Version:
    """A version as the contract shows it."""
    return pb.Version(
        model=version.model,
        version=version.version,
        uid=version.uid,
        state=_STATES[version.state],
        manifest=version.manifest,
        files=[file_message(file) for file in version.files],
        size_bytes=sum(file.size_bytes for file in version.files),
        create_time=_timestamp(version.create_time),
        archive_time=_timestamp(version.archive_time) if version.archive_time is not None else None,
    )


def file_message(file: VersionFile) -> pb.ArtifactFile:
    """A file as the contract shows it."""
    return pb.ArtifactFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)


def _timestamp(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message
