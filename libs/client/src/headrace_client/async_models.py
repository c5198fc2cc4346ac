"""Models and their versions, with asyncio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace_client import rpcs
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2, models_pb2
from headrace_client.contracts.inference import model_repository_pb2, open_inference_pb2
from headrace_client.download import Download
from headrace_client.errors import HeadraceError, ModelError
from headrace_client.inference import version_text
from headrace_client.manifests import read_manifest
from headrace_client.timeouts import checked_timeout_s
from headrace_client.transport import Transport
from headrace_client.upload import Artifact, Progress

ModelList = list[models_pb2.Model]
VersionList = list[models_pb2.Version]
ModelIndexList = list[model_repository_pb2.RepositoryIndexResponse.ModelIndex]
ManifestLike = manifest_pb2.Manifest | Mapping[str, Any] | Path
ExtraFiles = Sequence[Path] | Mapping[str, Path | bytes]

LOAD_TIMEOUT_S = 300.0
_PAGE_SIZE = 1000
_READY_WITHIN_S = 2.0
_READY_PAUSE_S = 0.01


class AsyncModels:
    """The models of the caller's tenant. Reading needs the role `viewer`, changing `model_admin`.

    Answers are the messages of the contract, as `headrace_client.contracts` describes them.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def push(
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

        Returns when the answering gateway could serve a call for the version, or two seconds after the registration at
        the latest: versions that no runner can serve now are taken, too. Other gateways hear of it a moment later.

        Args:
            artifact: Path of the file, or its content.
            name: The model; it is created when it doesn't exist.
            version: Number wanted. 0 means the newest one if it is the same, else the next free one.
            manifest: Fields that override what the mesh reads from the file: a message, a mapping of its fields, or
                the path of a `.json` or `.yaml` file.
            file_name: Name of the file inside the artefact; empty means that of the path.
            extra_files: Files that the manifest needs beside the model's, such as a tokenizer: paths, or contents by
                names.
            progress: Hears the bytes sent so far and those of all files; starts again at 0 when the upload does.
            timeout_s: Time for all of it, the wait at its end included; None means two minutes and a second for each
                MiB.

        Raises:
            ModelError: the file, the manifest or the number is refused, here or by the mesh.
            OSError: the file can't be read.
        """
        overrides = read_manifest(manifest) if manifest is not None else None
        extras = {path.name: path for path in extra_files} if isinstance(extra_files, Sequence) else extra_files
        source = await Artifact.of(artifact, file_name=file_name, extra_files=extras)
        header = source.header(model=name, version=version, manifest=overrides)
        timeout_s = checked_timeout_s(source.timeout_s if timeout_s is None else timeout_s)
        deadline_s = time.monotonic() + timeout_s
        answer = await self._transport.upload(
            rpcs.UPLOAD_VERSION, lambda: source.messages(header, progress), timeout_s=timeout_s
        )
        await self._wait_until_ready(answer.version, min(deadline_s, time.monotonic() + _READY_WITHIN_S))
        return answer.version

    async def download(
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

        Args:
            name: The model.
            to: Path of the file to write, or a folder for a file of the artefact's name.
            version: Number of the version; 0 means the newest that is ready.
            file: Path of the file inside the artefact; empty means the only one.
            progress: Hears the bytes received so far and those of the whole file.
            timeout_s: Time for the download, retries included. A broken one goes on where it broke.

        Returns:
            The path of the written file.

        Raises:
            ModelError: there is no such version or file, or what came has another digest.
            OSError: the file can't be written.
        """
        request = models_pb2.DownloadVersionRequest(model=name, version=version, path=file)
        return await Download(self._transport, request, to=Path(to), progress=progress).run(timeout_s)

    async def create(
        self, name: str, *, description: str = "", metadata: Mapping[str, str] | None = None
    ) -> models_pb2.Model:
        """Register a model without versions. `push` does it by itself where no description is wanted."""
        request = models_pb2.CreateModelRequest(name=name, description=description, metadata=metadata)
        return (await self._transport.unary(rpcs.CREATE_MODEL, request)).model

    async def list(self) -> ModelList:
        """All models, ordered by name."""
        request = models_pb2.ListModelsRequest(page_size=_PAGE_SIZE)
        return [model async for page in self._transport.pages(rpcs.LIST_MODELS, request) for model in page.models]

    async def get(self, name: str) -> models_pb2.Model:
        """One model."""
        return (await self._transport.unary(rpcs.GET_MODEL, models_pb2.GetModelRequest(name=name))).model

    async def versions(self, name: str) -> VersionList:
        """All versions of a model, the newest first."""
        request = models_pb2.ListVersionsRequest(model=name, page_size=_PAGE_SIZE)
        return [
            version async for page in self._transport.pages(rpcs.LIST_VERSIONS, request) for version in page.versions
        ]

    async def version(self, name: str, number: int = 0) -> models_pb2.Version:
        """One version with its manifest; 0 means the newest that is ready."""
        request = models_pb2.GetVersionRequest(model=name, version=number)
        return (await self._transport.unary(rpcs.GET_VERSION, request)).version

    async def archive(self, name: str, version: int) -> models_pb2.Version:
        """Take a version out of service for good."""
        request = models_pb2.ArchiveVersionRequest(model=name, version=version)
        return (await self._transport.unary(rpcs.ARCHIVE_VERSION, request)).version

    async def load(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Have the newest version of a model loaded, and wait until it can serve."""
        request = model_repository_pb2.RepositoryModelLoadRequest(model_name=name)
        await self._transport.unary(rpcs.LOAD_MODEL, request, timeout_s=timeout_s)

    async def unload(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Have a model taken out of memory; calls under way finish first, and the next call loads it again."""
        request = model_repository_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self._transport.unary(rpcs.UNLOAD_MODEL, request, timeout_s=timeout_s)

    async def index(self, *, ready: bool = False) -> ModelIndexList:
        """The state of every model's versions in the mesh; `ready` leaves out those that can't serve now."""
        request = model_repository_pb2.RepositoryIndexRequest(ready=ready)
        return [*(await self._transport.unary(rpcs.REPOSITORY_INDEX, request)).models]

    async def ready(self, name: str, version: str | int = "", *, timeout_s: float | None = None) -> bool:
        """Whether a call for the model could be served now. Loads nothing."""
        request = open_inference_pb2.ModelReadyRequest(name=name, version=version_text(version))
        return (await self._transport.unary(rpcs.MODEL_READY, request, timeout_s=timeout_s)).ready

    async def metadata(self, name: str, version: str | int = "") -> open_inference_pb2.ModelMetadataResponse:
        """Names, datatypes and shapes of a version's tensors."""
        request = open_inference_pb2.ModelMetadataRequest(name=name, version=version_text(version))
        return await self._transport.unary(rpcs.MODEL_METADATA, request)

    async def _wait_until_ready(self, version: models_pb2.Version, deadline_s: float) -> None:
        """Gateways hear of a version just after its registration; a call in between would not find it."""
        pause_s = _READY_PAUSE_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                if await self.ready(version.model, version.version, timeout_s=left_s):
                    return
            except ModelError:
                pass
            except HeadraceError:
                return  # The version is there, whatever keeps this question from being answered.
            await self._transport.pause(min(pause_s, left_s))
            pause_s *= 2
