"""An upload of a model by a form: its files go to disk as they arrive, and from there to the registry.

The registry wants to know the digests of all files before their first byte, which a form doesn't say. So that nobody
fills the disk who may not upload, the registry is asked before the first file is received.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import structlog

from headrace_client import failures, rpcs
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2, models_pb2
from headrace_client.errors import HeadraceError, ModelError, ValidationError
from headrace_common import catalogue
from headrace_gateway.http.document_fields import object_at, parse_json, refused
from headrace_gateway.http.failures import failed
from headrace_gateway.http.multipart_parts import PartEnd, PartHead, PartReader
from headrace_gateway.http.proto_documents import message_of
from headrace_gateway.http.sessions import CallContext, Session

FIELD_BYTES_MAX = 1 << 20
_CHUNK_BYTES = 1 << 20
_BYTES_PER_S_MIN = 1 << 20
# For the registry's checks after the last byte.
_CHECK_S = 120.0
_FIELDS: Final = ("name", "version", "manifest", "sha256")
_MODEL = "file"
_DIGITS_MAX = 19
_IN_FORM: Final = {
    "header.model": "name",
    "header.version": "version",
    "header.manifest": "manifest",
    "header.sha256": "sha256",
    "header.size_bytes": _MODEL,
    "header.file_name": _MODEL,
}
"""Where the form has what the registry calls otherwise."""


class SpooledFile:
    """A file of the form, on disk, without a name there: it goes when it is closed, however the process ends.

    Args:
        file_name: As the form names it.
        folder: Where it is put; made if it isn't there.

    Raises:
        HeadraceError: STORAGE_FAILED.
    """

    def __init__(self, *, file_name: str, folder: Path) -> None:
        self.file_name = file_name
        self.size_bytes = 0
        with _disk():
            folder.mkdir(parents=True, exist_ok=True)
            self.content: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by its form
        self._digest = hashlib.sha256()
        self._waiting = bytearray()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def write(self, content: bytes) -> None:
        """Takes the next bytes; written and hashed in a thread, a piece at a time."""
        self._waiting += content
        if len(self._waiting) >= _CHUNK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Writes what was taken.

        Raises:
            HeadraceError: STORAGE_FAILED.
        """
        piece, self._waiting = bytes(self._waiting), bytearray()
        with _disk():
            await asyncio.to_thread(self._put, piece)

    def _put(self, piece: bytes) -> None:
        left = memoryview(piece)
        while left:
            left = left[self.content.write(left) :]
        self._digest.update(piece)
        self.size_bytes += len(piece)


class UploadForm:
    """The parts of one form: fields in memory, files on disk. A context manager that lets go of the files.

    Args:
        session: Who uploads.
        call: The request.
        folder: Where files are put.
    """

    def __init__(self, *, session: Session, call: CallContext, folder: Path) -> None:
        self._session = session
        self._call = call
        self._folder = folder
        self._fields: dict[str, bytes] = {}
        self._model: SpooledFile | None = None
        self._extras: list[SpooledFile] = []
        self._open = ExitStack()

    def __enter__(self) -> UploadForm:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    async def receive(self, chunks: AsyncIterator[bytes], reader: PartReader) -> None:
        """Takes all parts.

        Raises:
            HeadraceError: a part can't be right, or the registry refuses the caller or the model's name.
        """
        field, file = "", None
        async for chunk in chunks:
            for event in reader.feed(chunk):
                if isinstance(event, PartHead):
                    field = event.name
                    file = None if self._is_field(event) else await self._begin_file(event)
                    if file is None:
                        self._begin_field(field)
                elif isinstance(event, PartEnd):
                    if file is not None:
                        await file.flush()
                elif file is not None:
                    await file.write(event)
                else:
                    self._add_to_field(field, event)
        reader.finish()

    async def send(self) -> models_pb2.Version:
        """Uploads what was received.

        Raises:
            HeadraceError: a part is missing, or the registry refuses the version.
        """
        model = self._model
        if model is None:
            raise refused(_MODEL, "is missing")
        header = self._header()
        header.size_bytes = model.size_bytes
        header.sha256 = self._text("sha256") or model.sha256
        header.file_name = model.file_name
        for extra in self._extras:
            header.extra_files.add(path=extra.file_name, size_bytes=extra.size_bytes, sha256=extra.sha256)
        if "manifest" in self._fields:
            header.manifest.CopyFrom(self._manifest())
        total_bytes = model.size_bytes + sum(extra.size_bytes for extra in self._extras)
        try:
            answer = await self._session.upload(
                rpcs.UPLOAD_VERSION,
                lambda: _messages(header, [model, *self._extras]),
                call=self._call,
                timeout_s=_CHECK_S + total_bytes / _BYTES_PER_S_MIN,
            )
        except HeadraceError as error:
            raise _in_words_of_the_form(error) from None
        return answer.version

    def _is_field(self, head: PartHead) -> bool:
        # A manifest may be attached as a file.
        return head.file_name is None or head.name == "manifest"

    def _begin_field(self, name: str) -> None:
        if name not in _FIELDS:
            raise refused(name[:64], f"is not a field here; there are {', '.join((*_FIELDS, _MODEL))}, and files")
        if name in self._fields:
            raise refused(name, "may come once")
        self._fields[name] = b""

    def _add_to_field(self, name: str, content: bytes) -> None:
        if len(self._fields[name]) + len(content) > FIELD_BYTES_MAX:
            raise refused(name, f"may have {FIELD_BYTES_MAX} bytes at most")
        self._fields[name] += content

    async def _begin_file(self, head: PartHead) -> SpooledFile:
        if self._model is None and not self._extras:
            await self._ask()
        file = SpooledFile(file_name=head.file_name or "", folder=self._folder)
        self._open.enter_context(file.content)
        if head.name != _MODEL:
            self._extras.append(file)
        elif self._model is None:
            self._model = file
        else:
            raise refused(_MODEL, "may come once; files beside the model's are parts of other names")
        return file

    async def _ask(self) -> None:
        """Announces a version without content: whatever else is wrong with it is told before that."""

        async def header_alone() -> AsyncIterator[models_pb2.UploadVersionRequest]:
            yield models_pb2.UploadVersionRequest(header=self._header())

        try:
            await self._session.upload(rpcs.UPLOAD_VERSION, header_alone, call=self._call, timeout_s=30.0)
        except HeadraceError as error:
            if error.field != "header.size_bytes":
                raise _in_words_of_the_form(error) from None

    def _header(self) -> models_pb2.UploadHeader:
        version = self._text("version") or "0"
        if not (version.isascii() and version.isdigit() and len(version) <= _DIGITS_MAX and int(version) < 1 << 63):
            raise refused("version", "must be a whole number")
        return models_pb2.UploadHeader(model=self._text("name"), version=int(version))

    def _text(self, name: str) -> str:
        try:
            return self._fields.get(name, b"").decode()
        except UnicodeDecodeError:
            raise refused(name, "is not UTF-8") from None

    def _manifest(self) -> manifest_pb2.Manifest:
        try:
            document = object_at(parse_json(self._fields["manifest"]), "manifest")
            return message_of(manifest_pb2.Manifest, document)
        except ValidationError as error:
            why = error.message.removeprefix("the body ").removeprefix("the ")
            raise ModelError(
                f"the manifest is not one: {why}", failures.MODEL_MANIFEST_INVALID, field="manifest"
            ) from None


@contextmanager
def _disk() -> Generator[None]:
    try:
        yield
    except OSError as error:
        structlog.stdlib.get_logger("http").error("an upload can't be kept on disk", error=str(error))
        raise failed(catalogue.STORAGE_FAILED, "the front can't keep the upload on its disk") from None


def _in_words_of_the_form(error: HeadraceError) -> HeadraceError:
    for registrys, forms in _IN_FORM.items():
        if error.field is not None and error.field.startswith(registrys):
            # The message stays one of the caller's own doing: it may name the field, too.
            error.message = error.message.replace(registrys, forms)
            error.field = forms + error.field.removeprefix(registrys)
            error.context.pop("field", None)
            break
    return error


async def _messages(
    header: models_pb2.UploadHeader, files: list[SpooledFile]
) -> AsyncIterator[models_pb2.UploadVersionRequest]:
    yield models_pb2.UploadVersionRequest(header=header)
    for file in files:
        await asyncio.to_thread(file.content.seek, 0)
        while chunk := await asyncio.to_thread(file.content.read, _CHUNK_BYTES):
            yield models_pb2.UploadVersionRequest(chunk=chunk)
