"""Models and their versions, blocking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace_client.async_models import (
    LOAD_TIMEOUT_S,
    AsyncModels,
    ExtraFiles,
    ManifestLike,
    ModelIndexList,
    ModelList,
    VersionList,
)
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.loop_thread import LoopThread
from headrace_client.upload import Progress


class Models:
    """The models of the caller's tenant; see `AsyncModels` for what arguments and answers mean."""

    def __init__(self, models: AsyncModels, loop: LoopThread) -> None:
        self._models = models
        self._loop = loop

    def push(
        self,
        artifact: Path | str | bytes,
        *,
        name: str,
        version: int = 0,
        manifest: ManifestLike | None = None,
        file_name: str = "",
        extra_files: ExtraFiles = (),
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> models_pb2.Version:
        """Upload a model file as a new version. The same bytes and manifest again change nothing.

        `progress` is called from the client's thread.
        """
        return self._loop.run(
            self._models.push(
                artifact,
                name=name,
                version=version,
                manifest=manifest,
                file_name=file_name,
                extra_files=extra_files,
                progress=progress,
                timeout_s=timeout_s,
            )
        )

    def download(
        self,
        name: str,
        to: Path | str,
        *,
        version: int = 0,
        file: str = "",
        progress: Progress | None = None,
        timeout_s: float = LOAD_TIMEOUT_S,
    ) -> Path:
        """Fetch a file of a version; it appears only whole and with the right SHA-256.

        `progress` is called from the client's thread.
        """
        return self._loop.run(
            self._models.download(name, to, version=version, file=file, progress=progress, timeout_s=timeout_s)
        )

    def create(
        self, name: str, *, description: str = "", metadata: Mapping[str, str] | None = None
    ) -> models_pb2.Model:
        """Register a model without versions."""
        return self._loop.run(self._models.create(name, description=description, metadata=metadata))

    def list(self) -> ModelList:
        """All models, ordered by name."""
        return self._loop.run(self._models.list())

    def get(self, name: str) -> models_pb2.Model:
        """One model."""
        return self._loop.run(self._models.get(name))

    def versions(self, name: str) -> VersionList:
        """All versions of a model, the newest first."""
        return self._loop.run(self._models.versions(name))

    def version(self, name: str, number: int = 0) -> models_pb2.Version:
        """One version with its manifest; 0 means the newest that is ready."""
        return self._loop.run(self._models.version(name, number))

    def archive(self, name: str, version: int) -> models_pb2.Version:
        """Take a version out of service for good."""
        return self._loop.run(self._models.archive(name, version))

    def load(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Have the newest version of a model loaded, and wait until it can serve."""
        self._loop.run(self._models.load(name, timeout_s=timeout_s))

    def unload(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Have a model taken out of memory; calls under way finish first, and the next call loads it again."""
        self._loop.run(self._models.unload(name, timeout_s=timeout_s))

    def index(self, *, ready: bool = False) -> ModelIndexList:
        """The state of every model's versions in the mesh; `ready` leaves out those that can't serve now."""
        return self._loop.run(self._models.index(ready=ready))

    def ready(self, name: str, version: str | int = "", *, timeout_s: float | None = None) -> bool:
        """Whether a call for the model could be served now. Loads nothing."""
        return self._loop.run(self._models.ready(name, version, timeout_s=timeout_s))

    def metadata(self, name: str, version: str | int = "") -> open_inference_pb2.ModelMetadataResponse:
        """Names, datatypes and shapes of a version's tensors."""
        return self._loop.run(self._models.metadata(name, version))
