"""Triton's model repository extension: what a tenant's models are, loading one ahead of its use, letting one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common import catalogue, wire
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, ValidationError
from headrace_common.grpc_server import Call
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.inference.outlook import why_not_wait
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement import Wants
from headrace_gateway.model_access import WRITE, require_action
from inference import model_repository_pb2 as repository

LOAD_TIMEOUT_S = 600.0
"""How long a load or unload may take whose client sent no deadline."""

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
UNLOADED = "unloaded"
_RUNNER_WAIT_S = 3.0
_LOOK_AGAIN_S = 0.5
_MARGIN_S = 0.05
_PARAMETER_CHARS_MAX = 64

Parameters = Mapping[str, repository.ModelRepositoryParameter]


class ModelRepository:
    """A tenant's models as one repository. Versions are registered elsewhere; what changes here is memory only.

    The answers to load and unload also hold the fields that KServe's clients look for, which Triton's skip.
    """

    def __init__(self, *, catalog: Catalog, directory: RunnerDirectory, wants: Wants, clock: Clock) -> None:
        self._catalog = catalog
        self._directory = directory
        self._wants = wants
        self._clock = clock

    async def RepositoryIndex(  # noqa: N802 - the contract's name
        self, request: repository.RepositoryIndexRequest, call: Call
    ) -> repository.RepositoryIndexResponse:
        _refuse_repository(request.repository_name)
        response = repository.RepositoryIndexResponse()
        for version in self._catalog.of_tenant(call.principal.tenant_id, policies=call.principal.policies):
            state, reason = self._state(version)
            if state == READY or not request.ready:
                response.models.add(name=version.model, version=version.version_text, state=state, reason=reason)
        return response

    async def RepositoryModelLoad(  # noqa: N802
        self, request: repository.RepositoryModelLoadRequest, call: Call
    ) -> repository.RepositoryModelLoadResponse:
        """Has the newest version loaded; one that failed is tried again."""
        name = _model_name(request)
        _check_parameters(request.parameters, known=())
        version = self._catalog.newest(call.principal.tenant_id, name, policies=call.principal.policies)
        require_action(call.principal.policies, WRITE, name)
        limit = _Limit(self._clock, call, "loaded", name)
        if not self._directory.replicas(version.uid) and self._failed_somewhere(version):
            await self._let_go([version], limit)
        patient_until = self._clock.monotonic() + _RUNNER_WAIT_S
        while not self._directory.replicas(version.uid):
            self._wants.ask(version)
            failure = why_not_wait(version, self._directory, patient=self._clock.monotonic() < patient_until)
            if failure is not None:
                raise failure
            await self._directory.wait_for_change(limit.pause_s())
        return repository.RepositoryModelLoadResponse.FromString(_kserve_answer(name))

    async def RepositoryModelUnload(  # noqa: N802
        self, request: repository.RepositoryModelUnloadRequest, call: Call
    ) -> repository.RepositoryModelUnloadResponse:
        """Takes every version of the model out of memory; a request that comes later has it loaded again."""
        name = _model_name(request)
        _check_parameters(request.parameters, known=("unload_dependents",))
        version = self._catalog.resolve(call.principal.tenant_id, name, "", policies=call.principal.policies)
        require_action(call.principal.policies, WRITE, name)
        versions = self._catalog.versions_of(version.tenant_id, name)
        await self._let_go(versions, _Limit(self._clock, call, "unloaded", name))
        return repository.RepositoryModelUnloadResponse.FromString(_kserve_answer(name))

    def _failed_somewhere(self, version: CatalogVersion) -> bool:
        return any(self._directory.load_failure(session, version.uid) for session in self._directory)

    async def _let_go(self, versions: Iterable[CatalogVersion], limit: _Limit) -> None:
        uids = [version.uid for version in versions]
        for uid in uids:
            self._wants.release(uid)
        while any(self._wants.releasing(uid) for uid in uids):
            await self._directory.wait_for_change(limit.pause_s())

    def _state(self, version: CatalogVersion) -> tuple[str, str]:
        if self._directory.replicas(version.uid):
            return READY, ""
        events = [session.models.get(version.uid) for session in self._directory]
        if any(event is not None and event.state == gateway_pb2.MODEL_STATE_LOADING for event in events):
            return LOADING, ""
        failures = [self._directory.load_failure(session, version.uid) for session in self._directory]
        failure = next((failure for failure in failures if failure is not None), None)
        if failure is not None:
            return UNAVAILABLE, failure.message
        if not self._directory.eligible(version):
            return UNAVAILABLE, "no runner is connected that can run it"
        return UNAVAILABLE, UNLOADED


class _Limit:
    """The time that a load or unload has, and how to say that it is over."""

    def __init__(self, clock: Clock, call: Call, done: str, name: str) -> None:
        remaining_s = call.remaining_s()
        self._clock = clock
        self._timeout_s = LOAD_TIMEOUT_S if remaining_s is None else max(0.0, remaining_s - _MARGIN_S)
        self._give_up_at = clock.monotonic() + self._timeout_s
        self._done = done
        self._name = name

    def pause_s(self) -> float:
        """How long to wait for a change before the next look.

        Raises:
            DeadlineError: MODEL_LOAD_TIMEOUT (DEADLINE_EXCEEDED).
        """
        left_s = self._give_up_at - self._clock.monotonic()
        if left_s <= 0:
            raise DeadlineError(
                f"model '{self._name}' was not {self._done} within {self._timeout_s:.3g} s; that goes on",
                entry=catalogue.MODEL_LOAD_TIMEOUT,
                context={"model": self._name},
            )
        return min(left_s, _LOOK_AGAIN_S)


def _model_name(request: repository.RepositoryModelLoadRequest | repository.RepositoryModelUnloadRequest) -> str:
    """The model's name: KServe's clients send it where Triton's send a repository's."""
    if request.model_name:
        _refuse_repository(request.repository_name)
        return request.model_name
    if not request.repository_name:
        raise ValidationError(
            "model_name is required",
            entry=catalogue.FIELD_REQUIRED,
            field="model_name",
            context={"field": "model_name"},
        )
    return request.repository_name


def _refuse_repository(name: str) -> None:
    if name:
        raise ValidationError(
            "repository_name must be empty: a tenant has one repository",
            entry=catalogue.FIELD_INVALID,
            field="repository_name",
            context={"field": "repository_name"},
        )


def _check_parameters(parameters: Parameters, *, known: Iterable[str]) -> None:
    for name, parameter in parameters.items():
        shown = name[:_PARAMETER_CHARS_MAX]
        if name == "config" or name.startswith("file:"):
            complaint = "can't replace what is registered: upload a new version of the model"
        elif name not in known:
            complaint = "is not known"
        elif parameter.WhichOneof("parameter_choice") != "bool_param":
            complaint = "must be a truth value"
        else:
            continue
        raise ValidationError(
            f"parameters.{shown} {complaint}",
            entry=catalogue.PARAMETER_INVALID,
            field=f"parameters.{shown}",
            context={"parameter": shown},
        )


def _kserve_answer(name: str) -> bytes:
    """`model_name` and `isLoaded` or `isUnloaded` of KServe's messages, which are empty in Triton's."""
    return wire.encode_len_field(1, name.encode()) + wire.encode_varint_field(2, 1)
