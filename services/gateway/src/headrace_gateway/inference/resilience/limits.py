"""The knobs of resilience; their settings and defaults are described in `config.py` and docs/tuning.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ResilienceLimits:
    """How far the gateway goes to save calls, and what it lets in.

    Attributes:
        runner_calls_max: Calls that this gateway has at one runner at once.
        model_calls_max: Calls of one model version at runners; `tenant_calls_max` is the same for a tenant.
        waiting_room: Unary calls that may wait beside those, for each model and each tenant.
        stream_calls_max: Calls of streams and batches that may wait for a replica, at most half of them of one tenant.
        retry_ratio: Retries and hedges for each call that was sent.
        retry_floor_per_s: Retries and hedges that are possible however few calls there are.
        breaker_volume: Calls of a replica within the window before its breaker judges; it opens when `breaker_ratio`
            of them have failed, for `breaker_open_s`, and closes after `breaker_successes` in a row.
        outlier_failures: Failures in a row that eject a runner.
        outlier_eject_s: How long it is ejected at first; twice as long each time after.
    """

    runner_calls_max: int = 100
    model_calls_max: int = 100
    tenant_calls_max: int = 100
    waiting_room: int = 50
    stream_calls_max: int = 16_384
    retry_ratio: float = 0.1
    retry_floor_per_s: float = 10.0
    breaker_volume: int = 20
    breaker_ratio: float = 0.5
    breaker_open_s: float = 5.0
    breaker_successes: int = 2
    outlier_failures: int = 5
    outlier_eject_s: float = 5.0
