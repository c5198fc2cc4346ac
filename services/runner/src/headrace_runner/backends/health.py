"""Asks backends whether they work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import structlog

from headrace_runner.backends.contract import Backend, BackendHealth, ChecksItself

PERIOD_S = 1.0
ROUNDS_MAX = 3
"""A check that is still running after so many rounds hangs. Counted in rounds, which stand still with the process."""
HEALTHY = BackendHealth()


class HealthCheck:
    """The health of one backend. `begin` and `latest` on one thread; the check itself runs on a thread of its own.

    Its thread is a daemon because native code that hangs with its device can't be stopped, nor waited for.
    """

    def __init__(self, *, name: str, backend: ChecksItself, device_type: str) -> None:
        self._name = name
        self._backend = backend
        self._device_type = device_type
        self._last = HEALTHY
        self._running = False
        self._rounds = 0

    def begin(self) -> None:
        """Starts a check unless one runs: the next round."""
        if self._running:
            self._rounds += 1
            return
        self._running, self._rounds = True, 0
        threading.Thread(target=self._check, name=f"health-{self._name}", daemon=True).start()

    @property
    def latest(self) -> BackendHealth:
        """What the last check found, or that the one that runs takes too long."""
        if self._running and self._rounds >= ROUNDS_MAX:
            return BackendHealth(False, "its check does not return: the device may hang; restart the runner")
        return self._last

    def _check(self) -> None:
        try:
            found = self._backend.health(self._device_type)
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            structlog.stdlib.get_logger("backends").warning("check failed", backend=self._name, error=str(error))
            found = BackendHealth(False, "its check failed; the runner's log says why")
        self._last = found
        self._running = False


class HealthChecks:
    """The health of all usable backends. Event loop only.

    Args:
        backends: By name; those that don't check themselves are healthy.
        device_type: What the runner computes on.
    """

    def __init__(self, *, backends: Mapping[str, Backend], device_type: str) -> None:
        self._log = structlog.stdlib.get_logger("backends")
        self._checks = {
            name: HealthCheck(name=name, backend=backend, device_type=device_type)
            for name, backend in backends.items()
            if isinstance(backend, ChecksItself)
        }
        self._told = dict.fromkeys(self._checks, HEALTHY)

    def of(self, name: str) -> BackendHealth:
        """A backend's health now."""
        check = self._checks.get(name)
        return check.latest if check is not None else HEALTHY

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            for name, check in self._checks.items():
                check.begin()
                self._tell(name, check.latest)
            await asyncio.sleep(PERIOD_S)

    def _tell(self, name: str, health: BackendHealth) -> None:
        if health.healthy != self._told[name].healthy:
            self._log.warning("backend health", backend=name, healthy=health.healthy, reason=health.reason)
        self._told[name] = health
