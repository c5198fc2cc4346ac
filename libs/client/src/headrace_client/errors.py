"""What goes wrong, as types: one base class, one class for each family of Headrace's error catalogue.

Catch `HeadraceError` for all of them, a family (`ModelError`, `TensorError`, …) for a subject, `RetryableError` for
what the same call may get over a moment later; read `error.reason` for the exact kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from grpc import StatusCode

from headrace_client import failures
from headrace_client.failures import Failure


class HeadraceError(Exception):
    """A failure, told by a mesh or by this package.

    Attributes:
        message: What happened, for people.
        failure: The kind, with code, reason and gRPC status.
        context: Values that belong to the failure, by the names that the catalogue documents.
        retry_after_s: When the mesh advises to try again, in seconds; None without advice.
        field: Path of the request's field at fault, for example `inputs[0].shape`; None where there is none.
        request_id: Finds the call in the logs of the mesh; None when it never got there.
    """

    default_failure: ClassVar[Failure] = failures.INTERNAL_ERROR

    def __init__(
        self,
        message: str,
        failure: Failure | None = None,
        *,
        context: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.failure = failure if failure is not None else self.default_failure
        self.context: dict[str, str] = dict(context or {})
        self.retry_after_s = retry_after_s
        self.field = field
        self.request_id = request_id

    @property
    def code(self) -> str:
        return self.failure.code

    @property
    def reason(self) -> str:
        return self.failure.reason

    @property
    def grpc_code(self) -> StatusCode:
        return self.failure.grpc_code

    @property
    def retryable(self) -> bool:
        return self.failure.retryable

    def __str__(self) -> str:
        kind = self.code if self.code == self.reason else f"{self.code} {self.reason}"
        return f"{self.message} [{kind}]"


class RetryableError(HeadraceError):
    """A failure that the same call may get over a moment later."""


class UnreachableError(RetryableError):
    """Nobody answers at the endpoint, or the connection broke before the answer. Context: `endpoint`."""

    default_failure = failures.UNREACHABLE


class ModelError(HeadraceError):
    """A model or a version of it."""

    default_failure = failures.MODEL_NOT_FOUND


class ModelUnavailable(ModelError, RetryableError):
    """A model that will be there in a moment."""


class TensorError(HeadraceError):
    """A tensor that doesn't fit the model, or can't be sent at all."""

    default_failure = failures.TENSOR_SHAPE_MISMATCH


class DeviceError(HeadraceError):
    """A device that can't do the work."""


class DeviceUnavailable(DeviceError, RetryableError):
    """A device that may be there, or free, in a moment."""


class QuotaError(HeadraceError):
    """A tenant's quota."""


class QuotaUnavailable(QuotaError, RetryableError):
    """Nobody can say in time whether the quota allows the call."""


class QuotaExceeded(QuotaError, RetryableError):
    """A limit of the tenant's plan is reached. Context: `quotaType`, `currentUsage`, `limit`."""


class AuthError(HeadraceError):
    """A credential that is missing, wrong, or not enough."""

    default_failure = failures.CREDENTIAL_MISSING


class AuthUnavailable(AuthError, RetryableError):
    """Credentials can't be checked yet."""


class TenantError(HeadraceError):
    """A tenant or one of its keys."""


class InitializationError(HeadraceError):
    """A component that couldn't start."""


class NotReady(InitializationError, RetryableError):
    """A component that is still starting."""


class DeadlineError(HeadraceError):
    """The call's time is over, or was ended."""

    default_failure = failures.CALL_TIMEOUT


class InferenceTimeout(DeadlineError):
    """An inference that didn't finish in time."""


class CallCancelled(DeadlineError):
    """A call that was cancelled, by its caller or because its stream was closed."""

    default_failure = failures.CALL_CANCELLED


class StorageError(HeadraceError):
    """The object store or the database behind a mesh."""


class StorageUnavailable(StorageError, RetryableError):
    """The object store or the database, for now."""


class ConversionError(HeadraceError):
    """A conversion of a model."""


class JobError(HeadraceError):
    """A job."""


class JobUnavailable(JobError, RetryableError):
    """The job service, for now."""


class RunnerError(HeadraceError):
    """A runner or its session."""


class RunnerUnavailable(RunnerError, RetryableError):
    """A runner that went away, or has no room, for now."""


class RouteError(HeadraceError):
    """A method or service that isn't served."""

    default_failure = failures.METHOD_UNKNOWN


class RouteUnavailable(RouteError, RetryableError):
    """A service that can't take the call for now."""


class ConfigError(HeadraceError):
    """A setting, a profile file or a secret, here or at the mesh."""

    default_failure = failures.SETTING_INVALID


class ValidationError(HeadraceError):
    """A request that can't be right, whatever the state."""

    default_failure = failures.FIELD_INVALID


class InternalError(HeadraceError):
    """A failure that nobody foresaw; the mesh's operators find it by `request_id`."""


_PERMANENT: dict[str, type[HeadraceError]] = {
    "AUTH": AuthError,
    "CONFIG": ConfigError,
    "CONVERSION": ConversionError,
    "DEVICE": DeviceError,
    "INIT": InitializationError,
    "INTERNAL": InternalError,
    "JOB": JobError,
    "MODEL": ModelError,
    "QUOTA": QuotaError,
    "ROUTE": RouteError,
    "RUNNER": RunnerError,
    "STORAGE": StorageError,
    "TENANT": TenantError,
    "TENSOR": TensorError,
    "TIMEOUT": DeadlineError,
    "VALIDATION": ValidationError,
}
_RETRYABLE: dict[str, type[HeadraceError]] = {
    "AUTH": AuthUnavailable,
    "DEVICE": DeviceUnavailable,
    "INIT": NotReady,
    "JOB": JobUnavailable,
    "MODEL": ModelUnavailable,
    "QUOTA": QuotaExceeded,
    "ROUTE": RouteUnavailable,
    "RUNNER": RunnerUnavailable,
    "STORAGE": StorageUnavailable,
    "UNREACHABLE": UnreachableError,
}
_SPECIAL: dict[str, type[HeadraceError]] = {
    "CALL_CANCELLED": CallCancelled,
    "INFERENCE_TIMEOUT": InferenceTimeout,
    "QUOTA_UNAVAILABLE": QuotaUnavailable,
}


def error_class(failure: Failure) -> type[HeadraceError]:
    """The most specific class for a kind of failure; the base classes for families that are not known here."""
    if failure.reason in _SPECIAL:
        return _SPECIAL[failure.reason]
    if failure.retryable:
        return _RETRYABLE.get(failure.family, RetryableError)
    return _PERMANENT.get(failure.family, HeadraceError)
