"""docker-compose.yml, k8s/ and the Dockerfiles say only what the services understand, and nothing unsafe."""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from headrace_cli.mesh.plan import STOP_MARGIN_S
from headrace_common.settings import ServiceSettings

ROOT = Path(__file__).parents[3]
SERVICES = ("gateway", "http", "quota", "registry", "runner")
# What of these has an image, and a package, of its own.
IMAGES = tuple(service for service in SERVICES if service != "http")
_CONFIGS = {"http": "headrace_gateway.http.config"}
MANIFESTS = sorted((ROOT / "k8s").glob("*.yaml"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def _documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


DOCUMENTS = list(_documents())
WORKLOADS = [document for document in DOCUMENTS if document["kind"] in {"Deployment", "StatefulSet"}]


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def _known_variables(service: str) -> set[str]:
    module = importlib.import_module(_CONFIGS.get(service, f"headrace_{service}.config"))
    (settings,) = (
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, ServiceSettings) and member.service == service
    )
    return {settings.variable(field) for field in settings.model_fields} | {"HEADRACE_CONFIG_DIR"}


def _configured() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Where a service is configured, which service it is, and its HEADRACE_* variables."""
    for name, definition in COMPOSE["services"].items():
        if name.split("-")[0] in SERVICES:
            yield f"compose-{name}", name.split("-")[0], definition["environment"]
    for document in WORKLOADS:
        for container in document["spec"]["template"]["spec"]["containers"]:
            service = container["name"].split("-")[0]
            if service in SERVICES:
                yield f"k8s-{service}", service, {entry["name"]: entry.get("value", "") for entry in container["env"]}


CONFIGURED = list(_configured())


@pytest.fixture(scope="module")
def generated_secrets(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("deployment") / "secrets"
    runpy.run_path(str(ROOT / "scripts" / "deployment_secrets.py"))["write_secrets"](folder)
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("service", "variables"), [pytest.param(*rest, id=where) for where, *rest in CONFIGURED])
def test_each_configured_variable_is_a_setting_of_its_service(service: str, variables: dict[str, str]) -> None:
    assert {name for name in variables if name.startswith("HEADRACE_")} - _known_variables(service) == set()


def test_every_service_is_deployed_by_compose_and_by_kubernetes() -> None:
    for kind in ("compose", "k8s"):
        assert {service for where, service, _ in CONFIGURED if where.startswith(kind)} == set(SERVICES)


@pytest.mark.parametrize("variables", [pytest.param(variables, id=where) for where, _, variables in CONFIGURED])
def test_values_that_are_secret_are_references(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        if name.endswith(("_URL", "_FILE")) and name != "HEADRACE_STORAGE_URL":
            assert value.removeprefix("file://").startswith("/run/secrets/"), name


def test_compose_secrets_are_those_that_make_secrets_writes(generated_secrets: set[str]) -> None:
    declared = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert declared <= generated_secrets
    used = {name for definition in COMPOSE["services"].values() for name in definition.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    for definition in COMPOSE["services"].values():
        for value in definition.get("environment", {}).values():
            path = str(value).removeprefix("file://")
            if path.startswith("/run/secrets/"):
                assert Path(path).name in definition["secrets"]


def test_secrets_made_twice_stay_the_same(tmp_path: Path) -> None:
    write = runpy.run_path(str(ROOT / "scripts" / "deployment_secrets.py"))["write_secrets"]
    write(tmp_path / "s")
    first = {path.name: path.read_text() for path in (tmp_path / "s").iterdir()}
    write(tmp_path / "s")
    assert {path.name: path.read_text() for path in (tmp_path / "s").iterdir()} == first
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_only_the_gateway_and_its_front_are_published_and_only_on_loopback() -> None:
    published = {name: definition["ports"] for name, definition in COMPOSE["services"].items() if "ports" in definition}
    assert set(published) == {"gateway", "http"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_manifest_follows_the_kubernetes_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.33", strict=True)
    assert document["metadata"].get("namespace", document["metadata"]["name"]) == "headrace"


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_pod_meets_the_restricted_profile(document: dict[str, Any]) -> None:
    pod = document["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {"readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_pod_mounts_the_secrets_that_its_settings_name(document: dict[str, Any], generated_secrets: set[str]) -> None:
    pod = document["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "secrets")
    sources = [volume["secret"]] if "secret" in volume else [part["secret"] for part in volume["projected"]["sources"]]
    mounted = {item["path"] for source in sources for item in source["items"]}
    assert mounted <= generated_secrets
    for entry in pod["containers"][0].get("env", []):
        path = entry.get("value", "").removeprefix("file://")
        if path.startswith("/run/secrets/headrace/"):
            assert Path(path).name in mounted


def _grace_s(variables: dict[str, str]) -> float:
    """What a deployed service gives to running calls."""
    settings = yaml.safe_load((ROOT / "config" / f"{variables['HEADRACE_ENV']}.yaml").read_text())
    default = ServiceSettings.model_fields["shutdown_grace_s"].default
    return float(variables.get("HEADRACE_SHUTDOWN_GRACE_S") or settings.get("shutdown_grace_s", default))


def _patience_s(where: str) -> float:
    """How long the platform waits for a service before it kills it."""
    kind, _, name = where.partition("-")
    if kind == "compose":
        return float(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s"))
    pods = (each["spec"]["template"]["spec"] for each in WORKLOADS)
    (pod,) = (pod for pod in pods if any(container["name"].startswith(name) for container in pod["containers"]))
    return float(pod["terminationGracePeriodSeconds"])


@pytest.mark.parametrize(("where", "variables"), [pytest.param(*entry[::2], id=entry[0]) for entry in CONFIGURED])
def test_an_orderly_stop_is_never_cut_short(where: str, variables: dict[str, str]) -> None:
    assert _grace_s(variables) + STOP_MARGIN_S <= _patience_s(where)


@pytest.mark.parametrize("kind", ["compose", "k8s"])
def test_runners_dial_every_gateway_behind_a_name(kind: str) -> None:
    (variables,) = (entry for where, service, entry in CONFIGURED if service == "runner" and where.startswith(kind))
    host, _, port = variables["HEADRACE_RUNNER_GATEWAYS"].removeprefix("dns:///").partition(":")
    assert variables["HEADRACE_RUNNER_GATEWAYS"] == f"dns:///{host}:{port}"
    (gateway,) = (entry for where, service, entry in CONFIGURED if service == "gateway" and where.startswith(kind))
    assert gateway["HEADRACE_GATEWAY_MESH_ADDRESS"].endswith(f":{port}")
    if kind == "compose":
        assert host in COMPOSE["services"]
        return
    services = {entry["metadata"]["name"]: entry["spec"] for entry in DOCUMENTS if entry["kind"] == "Service"}
    found = services[host.partition(".")[0]]
    # Not ready ones, too: a gateway is ready without runners, and would get calls before they find it.
    assert (found["clusterIP"], found["publishNotReadyAddresses"]) == ("None", True)
    assert [entry["port"] for entry in found["ports"]] == [int(port)]


@pytest.mark.parametrize("name", ["gateway", "runner-cpu"])
def test_a_rolling_update_takes_nothing_away_before_its_successor_is_there(name: str) -> None:
    (workload,) = (entry for entry in WORKLOADS if entry["metadata"]["name"] == name)
    assert workload["spec"]["replicas"] >= 2
    assert workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budgets = [entry["spec"]["selector"] for entry in DOCUMENTS if entry["kind"] == "PodDisruptionBudget"]
    assert workload["spec"]["selector"] in budgets


def test_images_name_a_version() -> None:
    images = [definition["image"] for definition in COMPOSE["services"].values()]
    images += [
        container["image"] for document in WORKLOADS for container in document["spec"]["template"]["spec"]["containers"]
    ]
    for image in images:
        assert not image.endswith(":latest")
        assert ":" in image


@pytest.mark.parametrize("service", IMAGES)
def test_image_runs_the_locked_service_as_an_unprivileged_user(service: str) -> None:
    lines = (ROOT / "services" / service / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert f'ENTRYPOINT ["headrace-{service}"]' in lines
    assert any("uv sync --frozen" in line and f"--package headrace-{service}" in line for line in lines)
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert not any(":latest" in line for line in lines)


@pytest.mark.parametrize("service", IMAGES)
def test_what_an_image_copies_exists_and_reaches_the_build(service: str) -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in (ROOT / "services" / service / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from=" not in line:
            copied.update(line.split()[1:-1])
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert copied == admitted
