"""Whether a call that no replica takes now should wait, or with what it should fail."""

from __future__ import annotations

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import DeadlineError, DeviceUnavailable, HeadraceError, ModelError, RouteUnavailable
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory

_RETRY_MIN_S = 0.1


def why_not_wait(version: CatalogVersion, directory: RunnerDirectory, *, patient: bool) -> HeadraceError | None:
    """The failure when waiting can't help, or None.

    Args:
        version: What the call is for.
        directory: The runners.
        patient: Whether the call may still wait for a runner to come.
    """
    if directory.replicas(version.uid):
        return None
    eligible = directory.eligible(version)
    if not eligible:
        return None if patient else no_runner(version)
    found = (directory.load_failure(session, version.uid) for session in eligible)
    failures = [failure for failure in found if failure is not None]
    if len(failures) < len(eligible):
        return None
    retryable = next((failure for failure in failures if failure.retryable), None)
    return retryable or _not_loadable(version, failures[0])


def circuit_open(version: CatalogVersion, open_for_s: float) -> HeadraceError:
    """What a call fails with while every replica's breaker keeps calls away for so long."""
    return RouteUnavailable(
        f"model '{version.model}' has failed too often on every runner that has it",
        entry=catalogue.CIRCUIT_OPEN,
        context={"model": version.model},
        retry_after_s=max(open_for_s, _RETRY_MIN_S),
    )


def too_late(version: CatalogVersion, needed_s: float) -> HeadraceError:
    """What a call fails with that so many wait before that its deadline can't be met."""
    return DeadlineError(
        f"so many requests wait for model '{version.model}' that this one would miss its deadline",
        entry=catalogue.DEADLINE_UNREACHABLE,
        context={"model": version.model, "needed_s": f"{needed_s:.3g}"},
    )


def out_of_time(version: CatalogVersion, needed_s: float) -> HeadraceError:
    """What a call fails with that has waited until too little of its time was left."""
    return DeadlineError(
        f"model '{version.model}' answers too slowly for what is left of the request's time",
        entry=catalogue.DEADLINE_UNREACHABLE,
        context={"model": version.model, "needed_s": f"{needed_s:.3g}"},
    )


def no_runner(version: CatalogVersion) -> HeadraceError:
    """What a call fails with that has waited for a runner in vain."""
    return DeviceUnavailable(
        f"no runner is connected that can run model '{version.model}'",
        entry=catalogue.RUNNER_NOT_AVAILABLE,
        context={"model": version.model, "backend": version.proto.manifest.backend},
    )


def shutting_down() -> HeadraceError:
    """What a call fails with that comes to a server that stops, or does not end before it has."""
    return RouteUnavailable("the server is shutting down", entry=catalogue.SERVER_DRAINING)


def wrong_task(version: CatalogVersion) -> HeadraceError:
    """What a call fails with whose method is for models of another kind."""
    task = manifest_pb2.ModelTask.Name(version.proto.manifest.task or manifest_pb2.MODEL_TASK_INFER)
    task = task.removeprefix("MODEL_TASK_").lower()
    does = "generates, for which there are Generate and ModelStreamInfer" if version.generates else "does not generate"
    return ModelError(
        f"model '{version.model}' {does}",
        entry=catalogue.MODEL_TASK_MISMATCH,
        context={"model": version.model, "task": task},
    )


def _not_loadable(version: CatalogVersion, cause: HeadraceError) -> HeadraceError:
    return ModelError(
        f"version {version.version_text} of model '{version.model}' could not be loaded on any runner: {cause.message}",
        entry=catalogue.MODEL_LOAD_FAILED,
        context={"model": version.model, "version": version.version_text, "cause": cause.reason},
    )
