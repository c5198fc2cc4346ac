"""Objects by key in S3, GCS, Azure, a local directory or memory, with one async interface."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, from_url

from headrace_common import catalogue
from headrace_common.errors import ConfigError, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

T = TypeVar("T")
CHUNK_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_RETRY: dict[str, Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_CLIENT: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}
# The library's own defaults retry for three minutes, longer than any caller waits.
_REMOTE_SCHEMES = frozenset({"s3", "gs", "az"})


class ObjectStore:
    """Immutable objects under slash-separated keys. Failures are `StorageError`s without the store's text.

    Safe for concurrent use. A cancelled `put_if_absent` leaves either the whole object or none.
    """

    def __init__(self, *, backend: Backend) -> None:
        self._backend = backend
        self._log = structlog.stdlib.get_logger("object_store")

    @classmethod
    def open(cls, url: str, *, options: Mapping[str, str] | None = None) -> ObjectStore:
        """Opens by URL: a path, `local://` or `file://` path, `s3://bucket/prefix`, `gs://…`, `az://…`, or `memory://`.

        A local directory is created (0700) where it is missing. Credentials and endpoints come from the cloud's own
        environment variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`; `AWS_ALLOW_HTTP=true` for an endpoint without TLS), or
        from `options` under the library's own names.

        Raises:
            ConfigError: SETTING_INVALID: no such scheme, or the address can't be right.
        """
        scheme, _, rest = url.partition("://")
        try:
            if "://" not in url and url:
                return cls(backend=_local(Path(url)))
            if scheme in ("local", "file") and rest:
                return cls(backend=_local(Path(unquote(urlsplit(url).path or rest))))
            if scheme == "memory":
                return cls(backend=MemoryStore())
            if scheme in _REMOTE_SCHEMES and rest:
                construct: Any = from_url  # pyright: ignore[reportUnknownVariableType]
                # Given client options replace the environment's, so plain HTTP has to be carried over.
                plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
                client = {**_CLIENT, "allow_http": plain}
                return cls(backend=construct(url, client_options=client, retry_config=_RETRY, **dict(options or {})))
        except (BaseError, OSError, ValueError) as error:
            structlog.stdlib.get_logger("object_store").error("storage address refused", exc_info=error)
            raise ConfigError(
                "HEADRACE_STORAGE_URL can't be opened", context={"variable": "HEADRACE_STORAGE_URL"}
            ) from None
        raise ConfigError(
            "HEADRACE_STORAGE_URL must be a directory or begin with local://, file://, s3://, gs:// or az://",
            context={"variable": "HEADRACE_STORAGE_URL"},
        )

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Stores atomically unless the key exists. Idempotent for content-addressed keys.

        Returns:
            False where the key existed; its bytes are then left as they are.
        """
        try:
            await self._backend.put_async(_checked(key), data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None
        return True

    async def replace(self, key: str, data: bytes) -> None:
        """Stores atomically whatever lay there before: only for an object whose bytes are known to be wrong."""
        await self._mapped_call(self._backend.put_async(_checked(key), data, mode="overwrite"))

    async def get(self, key: str) -> bytes:
        """The whole object. Raises StorageError OBJECT_NOT_FOUND where it is missing."""
        result = await self._mapped_call(self._backend.get_async(_checked(key)))
        return bytes(await self._mapped_call(result.bytes_async()))

    async def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """Bytes from `start`, at most `length` of them; fewer where the object ends first, none past its end."""
        size = await self.size(key)
        length = min(length, size - start)
        if length <= 0:
            return b""
        return bytes(await self._mapped_call(self._backend.get_range_async(_checked(key), start=start, length=length)))

    async def stream(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """The object in pieces of about `chunk_bytes`, without holding all of it in memory."""
        result = await self._mapped_call(self._backend.get_async(_checked(key)))
        try:
            async for chunk in result.stream(min_chunk_size=chunk_bytes):
                view = memoryview(chunk)
                for offset in range(0, len(view), chunk_bytes):
                    yield bytes(view[offset : offset + chunk_bytes])
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None

    async def size(self, key: str) -> int:
        """Bytes of the object. Raises StorageError OBJECT_NOT_FOUND where it is missing."""
        meta = await self._mapped_call(self._backend.head_async(_checked(key)))
        return meta["size"]

    async def exists(self, key: str) -> bool:
        try:
            await self._backend.head_async(_checked(key))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None
        return True

    async def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""
        try:
            await self._backend.delete_async(_checked(key))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None

    async def list(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
        """Keys under a prefix of whole path segments, with their sizes in bytes, in no particular order."""
        try:
            batches: Any = obstore.list(self._backend, prefix=_checked(prefix) if prefix else None)  # pyright: ignore[reportUnknownMemberType]
            async for batch in batches:
                for meta in batch:
                    yield meta["path"], meta["size"]
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None

    async def _mapped_call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except (BaseError, OSError) as error:
            raise self._mapped(error) from None

    def _mapped(self, error: Exception) -> StorageError:
        if isinstance(error, FileNotFoundError):
            return StorageError("the object is not in the object store", entry=catalogue.OBJECT_NOT_FOUND)
        self._log.error("object store failed", exc_info=error)
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
            return StorageError("the object store refused the service", entry=catalogue.STORAGE_DENIED)
        if "No space left" in str(error):
            return StorageError("no space is left in the object store", entry=catalogue.DISK_FULL)
        return StorageUnavailable("the object store can't be reached", entry=catalogue.STORAGE_UNAVAILABLE)


def _local(directory: Path) -> LocalStore:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LocalStore(prefix=directory.resolve())


def _checked(key: str) -> str:
    """Keys are ours, never a caller's; this keeps a defect from becoming a path traversal."""
    if not _KEY.fullmatch(key):
        raise StorageError("an object key is not well-formed", entry=catalogue.STORAGE_FAILED)
    return key
