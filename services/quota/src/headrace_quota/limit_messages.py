"""Between the contract's limits and plans, and the domain's."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_quota.limits import Limit, RateAlgorithm, Resource, Window

RESOURCE_TO_WIRE: dict[Resource, pb.Resource.ValueType] = {
    Resource.REQUESTS: pb.RESOURCE_REQUESTS,
    Resource.TOKENS: pb.RESOURCE_TOKENS,
    Resource.INPUT_BYTES: pb.RESOURCE_INPUT_BYTES,
    Resource.DEVICE_MS: pb.RESOURCE_DEVICE_MS,
    Resource.CONCURRENCY: pb.RESOURCE_CONCURRENCY,
}
WINDOW_TO_WIRE: dict[Window, pb.Window.ValueType] = {
    Window.RATE: pb.WINDOW_RATE,
    Window.MOMENT: pb.WINDOW_MOMENT,
    Window.HOUR: pb.WINDOW_HOUR,
    Window.DAY: pb.WINDOW_DAY,
    Window.MONTH: pb.WINDOW_MONTH,
}
_ALGORITHM_TO_WIRE: dict[RateAlgorithm, pb.RateAlgorithm.ValueType] = {
    RateAlgorithm.GCRA: pb.RATE_ALGORITHM_GCRA,
    RateAlgorithm.SLIDING_WINDOW: pb.RATE_ALGORITHM_SLIDING_WINDOW,
}
_RESOURCE_FROM_WIRE = {int(number): resource for resource, number in RESOURCE_TO_WIRE.items()}
_WINDOW_FROM_WIRE = {int(number): window for window, number in WINDOW_TO_WIRE.items()}
_ALGORITHM_FROM_WIRE = {int(number): algorithm for algorithm, number in _ALGORITHM_TO_WIRE.items()}
_NS_PER_MS = 1_000_000


def limit_message(limit: Limit) -> pb.Limit:
    """A limit as the contract shows it, with nothing left out."""
    message = pb.Limit(
        model=limit.model,
        resource=RESOURCE_TO_WIRE[limit.resource],
        window=WINDOW_TO_WIRE[limit.window],
        amount=limit.amount,
        burst=limit.burst or 0,
    )
    if limit.algorithm is not None:
        message.algorithm = _ALGORITHM_TO_WIRE[limit.algorithm]
    if limit.period_ms is not None:
        message.period.FromMilliseconds(limit.period_ms)
    return message


def limits_from(messages: Iterable[pb.Limit], *, field: str) -> tuple[Limit, ...]:
    """The limits of a request as they are, in its order; `checked_limits` says which of them make sense.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for an unknown resource, window or algorithm, and for a
            period that isn't whole milliseconds.
    """
    return tuple(_limit(message, field=f"{field}[{place}]") for place, message in enumerate(messages))


def resource_from(number: int, *, field: str) -> Resource:
    """The resource of a request.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for RESOURCE_UNSPECIFIED and numbers without a resource.
    """
    resource = _RESOURCE_FROM_WIRE.get(number)
    if resource is None:
        raise _invalid(field, f"must be one of {', '.join(Resource)}")
    return resource


def window_from(number: int, *, field: str) -> Window:
    """The window of a request.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for WINDOW_UNSPECIFIED and numbers without a window.
    """
    window = _WINDOW_FROM_WIRE.get(number)
    if window is None:
        raise _invalid(field, f"must be one of {', '.join(Window)}")
    return window


def _limit(message: pb.Limit, *, field: str) -> Limit:
    algorithm = None
    if message.algorithm != pb.RATE_ALGORITHM_UNSPECIFIED:
        algorithm = _ALGORITHM_FROM_WIRE.get(message.algorithm)
        if algorithm is None:
            raise _invalid(f"{field}.algorithm", f"must be one of {', '.join(RateAlgorithm)}, or left out for GCRA")
    return Limit(
        model=message.model,
        resource=resource_from(message.resource, field=f"{field}.resource"),
        window=window_from(message.window, field=f"{field}.window"),
        amount=message.amount,
        period_ms=_milliseconds(message.period, field=f"{field}.period") if message.HasField("period") else None,
        burst=message.burst,
        algorithm=algorithm,
    )


def _milliseconds(period: Duration, *, field: str) -> int:
    if period.nanos % _NS_PER_MS:
        raise _invalid(field, "must be whole milliseconds")
    return period.seconds * 1_000 + period.nanos // _NS_PER_MS


def _invalid(field: str, rule: str) -> ValidationError:
    return ValidationError(f"{field} {rule}", entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
