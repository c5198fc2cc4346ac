"""Finds the installed backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

import structlog

from headrace.registry.v1.manifest_pb2 import ArtifactFormat, Manifest
from headrace_common import catalogue
from headrace_common.errors import ConfigError, ModelError, RunnerError
from headrace_runner.backends.contract import ENTRY_POINT_GROUP, Availability, Backend

_INSTALLS = {
    "cpu": "headrace-runner[cpu]",
    "cuda": "headrace-runner[cuda] on a machine with an NVIDIA driver",
}
_DEFAULT_BACKENDS: Mapping[int, str] = {
    ArtifactFormat.ARTIFACT_FORMAT_ONNX: "onnxruntime",
    ArtifactFormat.ARTIFACT_FORMAT_GGUF: "llamacpp",
}


class BackendSet:
    """The backends that this process can use, by name.

    Args:
        backends: Candidates; those that aren't available for `device_type` are kept only as a reason.
        device_type: Device that this runner computes on.
    """

    def __init__(self, *, backends: Mapping[str, Backend], device_type: str) -> None:
        self.device_type = device_type
        self._usable: dict[str, Backend] = {}
        self._reasons: dict[str, str] = {}
        self._available = {name: backend.available() for name, backend in backends.items()}
        for name, backend in backends.items():
            availability = self._available[name]
            if device_type in availability.device_types:
                self._usable[name] = backend
            else:
                self._reasons[name] = _reason(availability, device_type)

    @property
    def usable(self) -> Mapping[str, Backend]:
        """The usable backends by name."""
        return self._usable

    @property
    def names(self) -> list[str]:
        """Usable backends in alphabetical order."""
        return sorted(self._usable)

    def availability(self, name: str) -> Availability:
        """What an installed backend can do here."""
        return self._available[name]

    def require_one(self) -> None:
        """Refuses a device that nothing here computes on.

        Raises:
            ConfigError: SETTING_INVALID: no backend is usable; the text says why of each, and what would change that.
        """
        if not self._usable:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._reasons.items()))
            raise ConfigError(
                f"HEADRACE_RUNNER_DEVICE is {self.device_type}, but no installed backend can compute on it"
                f" ({reasons or 'no backend is installed'}); choose another device, or install"
                f" {_INSTALLS.get(self.device_type, 'a backend that can')}",
                context={"variable": "HEADRACE_RUNNER_DEVICE"},
            )

    @property
    def unavailable(self) -> Mapping[str, str]:
        """Installed backends that can't be used, with the reason."""
        return self._reasons

    def choose(self, manifest: Manifest) -> Backend:
        """The backend that serves a manifest.

        Raises:
            ModelError: MODEL_FORMAT_UNSUPPORTED (INVALID_ARGUMENT): the format has no default backend here.
            RunnerError: BACKEND_MISSING (FAILED_PRECONDITION): the backend is not installed or not usable.
        """
        name = backend_name(manifest)
        if not name:
            raise ModelError(
                f"no backend serves artefacts of format {ArtifactFormat.Name(manifest.format)}",
                entry=catalogue.MODEL_FORMAT_UNSUPPORTED,
                context={"format": ArtifactFormat.Name(manifest.format)},
            )
        backend = self._usable.get(name)
        if backend is None:
            reason = self._reasons.get(name, "it is not installed")
            raise RunnerError(
                f"this runner can't use the backend '{name}': {reason}",
                entry=catalogue.BACKEND_MISSING,
                context={"backend": name},
            )
        return backend


def backend_name(manifest: Manifest) -> str:
    """Name of the backend that a manifest means; empty when it names none and its format has no default."""
    return manifest.backend or _DEFAULT_BACKENDS.get(manifest.format, "")


def discover(disabled: Iterable[str]) -> dict[str, Backend]:
    """Makes every installed backend except those named in `disabled`; one that can't be imported is only logged."""
    log = structlog.stdlib.get_logger("backends")
    switched_off = frozenset(disabled)
    backends: dict[str, Backend] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in switched_off:
            continue
        try:
            backends[point.name] = _make(point)
        except Exception:
            log.exception("backend can't be imported", backend=point.name)
    return backends


def _make(point: EntryPoint) -> Backend:
    factory = point.load()
    return factory()


def _reason(availability: Availability, device_type: str) -> str:
    if availability.device_types:
        return f"it computes on {', '.join(availability.device_types)}, this runner on {device_type}"
    return availability.reason or "it is not available"
