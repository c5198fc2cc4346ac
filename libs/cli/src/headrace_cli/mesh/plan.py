"""Which processes make a mesh, and the environment that each is started with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_cli.mesh.ports import LOOPBACK

Environment = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One address that a service binds: the variable that sets it, and its name in the service's ready file."""

    variable: str
    endpoint: str


# Nobody waits longer for a mesh on his own machine; HEADRACE_SHUTDOWN_GRACE_S says otherwise.
SHUTDOWN_GRACE_S = 5.0
# What a service may take on top of that: a gateway takes half a second for its runners to leave, a runner up to two for
# its models. Whoever stops services waits this long before killing them; docker-compose.yml and k8s/ do so too.
STOP_MARGIN_S = 4.0
METRICS = Listener(variable="HEADRACE_METRICS_ADDRESS", endpoint="metrics")
LISTENERS: Mapping[str, tuple[Listener, ...]] = {
    "quota": (Listener(variable="HEADRACE_QUOTA_GRPC_ADDRESS", endpoint="grpc"), METRICS),
    "registry": (Listener(variable="HEADRACE_REGISTRY_GRPC_ADDRESS", endpoint="grpc"), METRICS),
    "gateway": (
        Listener(variable="HEADRACE_GATEWAY_GRPC_ADDRESS", endpoint="grpc"),
        Listener(variable="HEADRACE_GATEWAY_MESH_ADDRESS", endpoint="mesh"),
        Listener(variable="HEADRACE_GATEWAY_FRONT_ADDRESS", endpoint="front"),
        METRICS,
    ),
    "http": (Listener(variable="HEADRACE_HTTP_ADDRESS", endpoint="http"), METRICS),
    "runner": (METRICS,),
}


@dataclass(frozen=True, kw_only=True)
class Backing:
    """The stores behind the services."""

    postgres_url: str
    redis_url: str
    storage_url: str


@dataclass(frozen=True, kw_only=True)
class SharedFiles:
    """Files that processes of one mesh share."""

    join_token: Path
    join_tokens: Path
    principal_key: Path
    principal_jwks: Path
    admin_key: Path
    certificates: Path | None = None
    """Folder with a certificate for each service; None where they speak plaintext."""


def process_names(service: str, count: int) -> list[str]:
    """`gateway-0`, `gateway-1`, ..."""
    return [f"{service}-{index}" for index in range(count)]


def address(port: int) -> str:
    """A loopback address."""
    return f"{LOOPBACK}:{port}"


class MeshPlan:
    """The environments of one mesh's services, from the settings of the person at the terminal and our own."""

    def __init__(
        self,
        *,
        inherited: Mapping[str, str],
        backing: Callable[[], Backing],
        files: SharedFiles,
        env: str | None,
        cores: int,
        runners: int,
    ) -> None:
        """`backing` is asked at each start: embedded servers have their ports only by then."""
        self._inherited = inherited
        self._backing = backing
        self._files = files
        self._env = env
        self._threads = max(1, cores // max(1, runners))

    def common(self, *, state: Path, ready_file: Path) -> Environment:
        """What every service gets. Logs and the grace may be chosen from outside, the rest is the mesh's own."""
        return {
            "HEADRACE_LOG_FORMAT": "console",
            "HEADRACE_SHUTDOWN_GRACE_S": f"{SHUTDOWN_GRACE_S:g}",
            **self._inherited,
            **({"HEADRACE_ENV": self._env} if self._env else {}),
            "HEADRACE_STATE_DIR": str(state),
            "HEADRACE_READY_FILE": str(ready_file),
            "HEADRACE_PRINCIPAL_JWKS_FILE": str(self._files.principal_jwks),
            # A log file is read while it is written.
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def shutdown_grace_s(self) -> float:
        """How long a stopping service gives to running calls. A value that is no number is the services' to refuse."""
        try:
            return float(self._inherited.get("HEADRACE_SHUTDOWN_GRACE_S", SHUTDOWN_GRACE_S))
        except ValueError:
            return SHUTDOWN_GRACE_S

    def quota(self) -> Environment:
        """Tenants and keys, with the embedded tenants and the admin key of this mesh."""
        return {
            "HEADRACE_POSTGRES_URL": self._backing().postgres_url,
            "HEADRACE_REDIS_URL": self._backing().redis_url,
            "HEADRACE_QUOTA_EMBEDDED_TENANTS": "true",
            "HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE": str(self._files.admin_key),
            **self._tls("quota"),
        }

    def registry(self) -> Environment:
        """Models and their bytes."""
        return {
            "HEADRACE_POSTGRES_URL": self._backing().postgres_url,
            "HEADRACE_STORAGE_URL": self._backing().storage_url,
            **self._tls("registry"),
        }

    def gateway(self, *, name: str, share_port: bool, quota: str, registry: str) -> Environment:
        """The front door; open for the community key because every listener is loopback."""
        return {
            "HEADRACE_GATEWAY_NAME": name,
            "HEADRACE_GATEWAY_SHARE_PORT": "true" if share_port else "false",
            "HEADRACE_GATEWAY_QUOTA_ADDRESS": quota,
            "HEADRACE_GATEWAY_REGISTRY_ADDRESS": registry,
            "HEADRACE_GATEWAY_COMMUNITY": "true",
            "HEADRACE_GATEWAY_REFLECTION": "open",
            "HEADRACE_PRINCIPAL_KEY_FILE": str(self._files.principal_key),
            "HEADRACE_GATEWAY_JOIN_TOKENS_FILE": str(self._files.join_tokens),
            # Clients of a mesh on their own machine need no certificates.
            "HEADRACE_GATEWAY_PUBLIC_TLS": "false",
            **self._tls("gateway"),
        }

    def http(self, *, name: str, share_port: bool, gateway: str) -> Environment:
        """The HTTP front beside a gateway, which it calls on a listener of its own."""
        return {
            "HEADRACE_HTTP_NAME": name,
            "HEADRACE_HTTP_SHARE_PORT": "true" if share_port else "false",
            "HEADRACE_HTTP_GATEWAY_ADDRESS": gateway,
        }

    def runner(self, *, name: str, cache: Path, gateways: Sequence[str], registry: str) -> Environment:
        """A CPU runner that dials every gateway; runners share the artefact cache and divide the machine's cores."""
        return {
            "HEADRACE_RUNNER_NAME": name,
            "HEADRACE_RUNNER_GATEWAYS": ",".join(gateways),
            "HEADRACE_RUNNER_REGISTRY_ADDRESS": registry,
            "HEADRACE_RUNNER_CACHE_DIR": str(cache),
            "HEADRACE_RUNNER_THREADS": self._inherited.get("HEADRACE_RUNNER_THREADS", str(self._threads)),
            "HEADRACE_JOIN_TOKEN_FILE": str(self._files.join_token),
            **self._tls("runner"),
        }

    def _tls(self, service: str) -> Environment:
        folder = self._files.certificates
        if folder is None:
            return {}
        return {
            "HEADRACE_TLS_CERTIFICATE_FILE": str(folder / f"{service}.crt"),
            "HEADRACE_TLS_KEY_FILE": str(folder / f"{service}.key"),
            "HEADRACE_TLS_CA_FILE": str(folder / "ca.crt"),
        }


def inherited_environment(environ: Mapping[str, str], *, folder: Path) -> Environment:
    """The caller's environment without what only concerns `headrace` itself or belongs to another process.

    Stores and secrets are handed to the services that need them, and to no other; certificates are the mesh's own.
    Services run in folders of their own, so the folder of settings files is made absolute;
    `folder` is where the command was started, and its `config/base.yaml` is used when none is named.
    """
    ours = {
        "HEADRACE_API_KEY",
        "HEADRACE_ENDPOINT",
        "HEADRACE_STATE_DIR",
        "HEADRACE_READY_FILE",
        "HEADRACE_POSTGRES_URL",
        "HEADRACE_REDIS_URL",
        "HEADRACE_STORAGE_URL",
    }
    kept = {key: value for key, value in environ.items() if key not in ours and not key.startswith("HEADRACE_TLS_")}
    if named := kept.get("HEADRACE_CONFIG_DIR"):
        kept["HEADRACE_CONFIG_DIR"] = str(folder / named)
    elif (folder / "config" / "base.yaml").is_file():
        kept["HEADRACE_CONFIG_DIR"] = str(folder / "config")
    return kept
