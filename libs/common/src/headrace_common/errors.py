"""Typed failures. Domain code raises these; what they look like on a wire is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry, RetryPolicy

ContextValue = str | int | float | bool
"""What a context map may hold; on the wire each value becomes text."""


class HeadraceError(Exception):
    """A failure of the catalogue.

    Args:
        message: For the caller: names the field and the limit; never a library's text, a path or a secret.
        entry: The catalogue's entry; each class has a default.
        context: Values that programs may read, by the names that the entry documents.
        retry_after_s: When a retry makes sense, if that is known better than by the entry's policy.
        field: Path of the request's field at fault, such as `inputs[0].shape`.
        correlation_id: Finds the failure in the log of the service that raised it.
    """

    default_entry: ClassVar[CatalogueEntry] = catalogue.INTERNAL_ERROR

    def __init__(
        self,
        message: str,
        *,
        entry: CatalogueEntry | None = None,
        context: Mapping[str, ContextValue] | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.entry = entry if entry is not None else self.default_entry
        self.context: dict[str, ContextValue] = dict(context) if context is not None else {}
        self.retry_after_s = retry_after_s
        self.field = field
        self.correlation_id = correlation_id

    @property
    def code(self) -> str:
        return self.entry.code

    @property
    def reason(self) -> str:
        return self.entry.reason

    @property
    def retryable(self) -> bool:
        return self.entry.retryable

    @property
    def retry_policy(self) -> RetryPolicy | None:
        return self.entry.retry

    def __str__(self) -> str:
        return f"{self.entry.code} {self.entry.reason}: {self.message}"


class RetryableError(HeadraceError):
    """A failure that a retry may cure; `retry_policy` says how."""

    default_entry = catalogue.UPSTREAM_UNAVAILABLE

    @property
    def retry_policy(self) -> RetryPolicy:
        return self.entry.retry or RetryPolicy()

    def delay_s(self, attempt: int) -> float:
        """The pause before try number `attempt + 1`: the server's hint where there is one, else the policy's."""
        policy_s = self.retry_policy.delay_s(attempt)
        return policy_s if self.retry_after_s is None else max(self.retry_after_s, policy_s)


class ModelError(HeadraceError):
    """A model or a version of it."""

    default_entry = catalogue.MODEL_NOT_FOUND


class ModelUnavailable(ModelError, RetryableError):
    """A model that will be there in a moment."""

    default_entry = catalogue.MODEL_LOADING


class TensorError(HeadraceError):
    """A tensor that doesn't fit the model."""

    default_entry = catalogue.TENSOR_SHAPE_MISMATCH


class DeviceError(HeadraceError):
    """A device that can't do the work."""

    default_entry = catalogue.DEVICE_NOT_AVAILABLE


class DeviceUnavailable(DeviceError, RetryableError):
    """A device that may be there, or free, in a moment."""

    default_entry = catalogue.DEVICE_NOT_AVAILABLE


class QuotaError(HeadraceError):
    """A tenant's quota."""

    default_entry = catalogue.QUOTA_UNAVAILABLE


class QuotaUnavailable(QuotaError, RetryableError):
    """Nobody can say in time whether the quota allows the call."""

    default_entry = catalogue.QUOTA_UNAVAILABLE


class QuotaExceeded(QuotaError, RetryableError):
    """A limit of the tenant's plan is reached. Context: `quotaType`, `currentUsage`, `limit`."""

    default_entry = catalogue.QUOTA_EXCEEDED


class AuthError(HeadraceError):
    """A credential that is missing, wrong, or not enough."""

    default_entry = catalogue.CREDENTIAL_MISSING


class AuthUnavailable(AuthError, RetryableError):
    """Credentials can't be checked yet."""

    default_entry = catalogue.CREDENTIALS_NOT_READY


class TenantError(HeadraceError):
    """A tenant or one of its keys."""

    default_entry = catalogue.TENANT_NOT_FOUND


class InitializationError(HeadraceError):
    """A component that couldn't start."""

    default_entry = catalogue.INITIALIZATION_FAILED


class NotReady(InitializationError, RetryableError):
    """A component that is still starting."""

    default_entry = catalogue.SERVICE_NOT_READY


class DeadlineError(HeadraceError):
    """The call's time is over, or was ended."""

    default_entry = catalogue.CALL_TIMEOUT


class InferenceTimeout(DeadlineError):
    """An inference that didn't finish in time."""

    default_entry = catalogue.INFERENCE_TIMEOUT


class StorageError(HeadraceError):
    """The object store or the database."""

    default_entry = catalogue.STORAGE_FAILED


class StorageUnavailable(StorageError, RetryableError):
    """The object store or the database, for now."""

    default_entry = catalogue.STORAGE_UNAVAILABLE


class ConversionError(HeadraceError):
    """A conversion of a model."""

    default_entry = catalogue.CONVERSION_FAILED


class JobError(HeadraceError):
    """A job."""

    default_entry = catalogue.JOB_NOT_FOUND


class JobUnavailable(JobError, RetryableError):
    """The job service, for now."""

    default_entry = catalogue.JOB_SERVICE_UNAVAILABLE


class RunnerError(HeadraceError):
    """A runner or its session."""

    default_entry = catalogue.RUNNER_PROTOCOL_VIOLATION


class RunnerUnavailable(RunnerError, RetryableError):
    """A runner that went away, or has no room, for now."""

    default_entry = catalogue.RUNNER_LOST


class RouteError(HeadraceError):
    """A method or service that isn't served."""

    default_entry = catalogue.METHOD_UNKNOWN


class RouteUnavailable(RouteError, RetryableError):
    """A service that can't take the call for now."""

    default_entry = catalogue.UPSTREAM_UNAVAILABLE


class ConfigError(HeadraceError):
    """A setting, a configuration file or a secret."""

    default_entry = catalogue.SETTING_INVALID


class ValidationError(HeadraceError):
    """A request that can't be right, whatever the state."""

    default_entry = catalogue.FIELD_INVALID


class InternalError(HeadraceError):
    """A failure that nobody foresaw; carries a correlation id and nothing else."""

    default_entry = catalogue.INTERNAL_ERROR


_PERMANENT: dict[str, type[HeadraceError]] = {
    "MODEL": ModelError,
    "TENSOR": TensorError,
    "DEVICE": DeviceError,
    "QUOTA": QuotaError,
    "AUTH": AuthError,
    "TENANT": TenantError,
    "INIT": InitializationError,
    "TIMEOUT": DeadlineError,
    "STORAGE": StorageError,
    "CONVERSION": ConversionError,
    "JOB": JobError,
    "RUNNER": RunnerError,
    "ROUTE": RouteError,
    "CONFIG": ConfigError,
    "VALIDATION": ValidationError,
    "INTERNAL": InternalError,
}
_RETRYABLE: dict[str, type[HeadraceError]] = {
    "MODEL": ModelUnavailable,
    "DEVICE": DeviceUnavailable,
    "QUOTA": QuotaExceeded,
    "AUTH": AuthUnavailable,
    "INIT": NotReady,
    "JOB": JobUnavailable,
    "STORAGE": StorageUnavailable,
    "RUNNER": RunnerUnavailable,
    "ROUTE": RouteUnavailable,
}
_SPECIAL: dict[str, type[HeadraceError]] = {
    catalogue.QUOTA_UNAVAILABLE.reason: QuotaUnavailable,
    catalogue.INFERENCE_TIMEOUT.reason: InferenceTimeout,
}


def error_class(entry: CatalogueEntry) -> type[HeadraceError]:
    """The most specific class for an entry: its family's, the retryable one where the entry can be retried."""
    special = _SPECIAL.get(entry.reason)
    if special is not None:
        return special
    permanent = _PERMANENT.get(entry.family, HeadraceError)
    return _RETRYABLE.get(entry.family, permanent) if entry.retryable else permanent
