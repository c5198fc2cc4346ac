"""Makes the members of a mesh out of the options, the ports that are free and the servers that are given."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace_cli.mesh.account import unprivileged_account
from headrace_cli.mesh.certificates import renew_certificates
from headrace_cli.mesh.embedded_postgres import EmbeddedPostgres
from headrace_cli.mesh.embedded_valkey import EmbeddedValkey, valkey_binary
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.member import Member
from headrace_cli.mesh.options import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT, FIRST_METRICS_PORT, MeshOptions
from headrace_cli.mesh.plan import (
    LISTENERS,
    METRICS,
    STOP_MARGIN_S,
    Backing,
    Environment,
    Listener,
    MeshPlan,
    SharedFiles,
    inherited_environment,
    process_names,
)
from headrace_cli.mesh.ports import PortChoice, SharedPort, choose_port, first_free_ports, is_free
from headrace_cli.mesh.postgres_install import place_postgres, wheel_install
from headrace_cli.mesh.process import StopStep
from headrace_cli.mesh.secrets import open_secrets
from headrace_cli.mesh.service_member import ServiceMember
from headrace_cli.mesh.state_dir import StateDir

# An operator's drain ends a runner the way SIGTERM does.
_ORDERLY_EXITS = {"runner": "was drained and left"}
# The front is a part of the gateway's package.
_MODULES = {"http": "headrace_gateway.http"}
_ANY = PortChoice(port=0, flexible=True)


class MeshAssembly:
    """All members of one mesh, stage by stage in the order of their start."""

    def __init__(self, *, options: MeshOptions, state: StateDir, environ: Mapping[str, str]) -> None:
        """Decide ports and places; nothing is started.

        Raises:
            MeshError: an explicit port is taken, or the embedded servers can't be placed.
        """
        self._options = options
        self._state = state
        self._secrets = open_secrets(state.secrets)
        self.gateway_names = process_names("gateway", options.gateways)
        self.front_names = process_names("http", options.gateways if options.http else 0)
        self.runner_names = process_names("runner", options.runners)
        self._shared_ports: list[SharedPort] = []
        self._public = self._port(options.grpc_port, DEFAULT_GRPC_PORT, "--grpc-port")
        self._http = self._port(options.http_port, DEFAULT_HTTP_PORT, "--http-port") if options.http else _ANY
        self.stores: list[Member] = []
        self._plan = MeshPlan(
            inherited=inherited_environment(environ, folder=Path.cwd()),
            backing=self._stores(),
            files=SharedFiles(
                join_token=self._secrets.join_token,
                join_tokens=self._secrets.join_tokens,
                principal_key=self._secrets.principal_key,
                principal_jwks=self._secrets.principal_jwks,
                admin_key=self._secrets.admin_key,
                certificates=self._certificates(environ) if options.tls else None,
            ),
            env=options.env,
            cores=os.cpu_count() or 1,
            runners=options.runners,
        )
        self._metrics_ports = self._reserve_metrics_ports()
        self.quota = self._service("quota", "quota", self._plan.quota)
        self.registry = self._service("registry", "registry", self._plan.registry)
        self.gateways = [self._gateway(name) for name in self.gateway_names]
        self.fronts = [
            self._front(name, gateway) for name, gateway in zip(self.front_names, self.gateways, strict=False)
        ]
        self.runners = [self._runner(name) for name in self.runner_names]

    @property
    def stop_order(self) -> list[list[str]]:
        """Names by stage: whoever calls others stops before them."""
        stores = [[member.name] for member in reversed(self.stores)]
        return [[*self.front_names, *self.runner_names], self.gateway_names, ["registry"], ["quota"], *stores]

    @property
    def service_names(self) -> list[str]:
        """Names of everything but the stores, in the order in which a restart goes: who is called comes first."""
        return ["quota", "registry", *self.gateway_names, *self.front_names, *self.runner_names]

    @property
    def public_address(self) -> str:
        """Where clients find the gateways, once they serve."""
        return _known(self.gateways[0].endpoints.grpc)

    @property
    def http_url(self) -> str | None:
        """Where clients find the HTTP fronts, once they serve; None where there are none."""
        return _known(self.fronts[0].endpoints.http) if self.fronts else None

    def close(self) -> None:
        """Give the shared ports back, once those that listened there have ended."""
        for port in self._shared_ports:
            port.close()

    def _certificates(self, environ: Mapping[str, str]) -> Path:
        folder = self._state.secrets / "tls"
        labels = environ.get("HEADRACE_RUNNER_LABELS", "").split(",")
        tenants = [label.strip().removeprefix("tenant=") for label in labels if label.strip().startswith("tenant=")]
        renew_certificates(folder, tenant=tenants[0] if tenants else "")
        return folder

    def _port(self, asked: int | None, default: int, option: str) -> PortChoice:
        """The port of one service for clients; held for all of its processes where there are several."""
        choice = choose_port(asked=asked, default=default, option=option, is_free=is_free)
        if not self._share_ports:
            return choice
        self._shared_ports.append(SharedPort(choice, option=option))
        return PortChoice(port=self._shared_ports[-1].port, flexible=False)

    @property
    def _share_ports(self) -> bool:
        return self._options.gateways > 1

    def _stores(self) -> Callable[[], Backing]:
        """Make the servers that are not given; their URLs are known once they serve."""
        options, secrets = self._options, self._secrets
        postgres = valkey = None
        if options.postgres_url is None:
            account = unprivileged_account()
            postgres = EmbeddedPostgres(
                placement=place_postgres(
                    state=self._state.path,
                    identity=self._state.identity,
                    wheel=wheel_install(),
                    account=account,
                ),
                account=account,
                password=secrets.postgres_password,
                log=self._state.logs / "postgres.log",
            )
            self.stores.append(postgres)
        if options.redis_url is None:
            valkey = EmbeddedValkey(
                binary=valkey_binary(),
                folder=self._state.path / "valkey",
                password=secrets.valkey_password,
                log=self._state.logs / "valkey.log",
            )
            self.stores.append(valkey)
        storage_url = options.storage_url or str(self._state.storage)
        return lambda: Backing(
            postgres_url=postgres.url if postgres else options.postgres_url or "",
            redis_url=valkey.url if valkey else options.redis_url or "",
            storage_url=storage_url,
        )

    def _reserve_metrics_ports(self) -> dict[str, int]:
        # Gateways and runners are looked at most, so they come first.
        names = [*self.gateway_names, *self.runner_names, *self.front_names, "quota", "registry"]
        ports = first_free_ports(start=FIRST_METRICS_PORT, count=len(names), is_free=is_free)
        return dict(zip(names, ports, strict=True))

    def _service(self, service: str, name: str, environment: Callable[[], Environment]) -> ServiceMember:
        state, ready_file = self._state.service(name), self._state.ready / f"{name}.json"
        listeners: dict[Listener, PortChoice] = dict.fromkeys(LISTENERS[service], _ANY)
        listeners[METRICS] = PortChoice(port=self._metrics_ports[name], flexible=True)
        if service in ("gateway", "http"):
            listeners[LISTENERS[service][0]] = self._public if service == "gateway" else self._http
        return ServiceMember(
            name=name,
            module=_MODULES.get(service, f"headrace_{service}"),
            environment=lambda: {**self._plan.common(state=state, ready_file=ready_file), **environment()},
            listeners=listeners,
            state=state,
            ready_file=ready_file,
            log=self._state.logs / f"{name}.log",
            orderly_exit=_ORDERLY_EXITS.get(service, "was told to stop and left"),
            stop_steps=(
                StopStep(signal=signal.SIGTERM, wait_s=self._plan.shutdown_grace_s + STOP_MARGIN_S),
                StopStep(signal=signal.SIGKILL, wait_s=3.0),
            ),
        )

    def _gateway(self, name: str) -> ServiceMember:
        return self._service(
            "gateway",
            name,
            lambda: self._plan.gateway(
                name=name,
                share_port=self._share_ports,
                quota=_known(self.quota.endpoints.grpc),
                registry=_known(self.registry.endpoints.grpc),
            ),
        )

    def _front(self, name: str, gateway: ServiceMember) -> ServiceMember:
        return self._service(
            "http",
            name,
            lambda: self._plan.http(name=name, share_port=self._share_ports, gateway=_known(gateway.endpoints.front)),
        )

    def _runner(self, name: str) -> ServiceMember:
        return self._service(
            "runner",
            name,
            lambda: self._plan.runner(
                name=name,
                cache=self._state.path / "cache",
                gateways=[_known(gateway.endpoints.mesh) for gateway in self.gateways],
                registry=_known(self.registry.endpoints.grpc),
            ),
        )


def _known(value: str | None) -> str:
    if value is None:
        raise MeshError("a service did not say where it listens")
    return value
