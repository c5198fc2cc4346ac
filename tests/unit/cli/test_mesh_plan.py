"""The environments that services are started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace_cli.mesh.plan import Backing, MeshPlan, SharedFiles, inherited_environment, process_names

FILES = SharedFiles(
    join_token=Path("/s/join.token"),
    join_tokens=Path("/s/join.tokens"),
    principal_key=Path("/s/principal.key"),
    principal_jwks=Path("/s/principal.jwks"),
    admin_key=Path("/s/admin.key"),
)


def plan(*, inherited: dict[str, str] | None = None, cores: int = 4, runners: int = 2) -> MeshPlan:
    backing = Backing(postgres_url="postgresql://p", redis_url="redis://r", storage_url="/storage")
    return MeshPlan(
        inherited=inherited or {}, backing=lambda: backing, files=FILES, env="test", cores=cores, runners=runners
    )


def test_only_gateways_get_the_signing_key_and_only_quota_the_admin_key() -> None:
    made = plan()
    gateway = made.gateway(name="gateway-0", share_port=False, quota="q:1", registry="r:1")
    runner = made.runner(name="runner-0", cache=Path("/c"), gateways=["g:1"], registry="r:1")
    everyone = made.common(state=Path("/s"), ready_file=Path("/r"))
    others = {**made.quota(), **made.registry(), **runner, **everyone}
    assert gateway["HEADRACE_PRINCIPAL_KEY_FILE"] == "/s/principal.key"
    assert "/s/principal.key" not in others.values()
    assert made.quota()["HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE"] == "/s/admin.key"
    assert "/s/admin.key" not in {**gateway, **made.registry(), **runner, **everyone}.values()


def test_each_service_gets_its_own_certificate_where_there_are_some_and_clients_need_none() -> None:
    backing = Backing(postgres_url="postgresql://p", redis_url="redis://r", storage_url="/storage")
    files = replace(FILES, certificates=Path("/s/tls"))
    made = MeshPlan(inherited={}, backing=lambda: backing, files=files, env=None, cores=2, runners=1)
    gateway = made.gateway(name="gateway-0", share_port=False, quota="q:1", registry="r:1")
    runner = made.runner(name="runner-0", cache=Path("/c"), gateways=["g:1"], registry="r:1")
    for service, variables in (("quota", made.quota()), ("registry", made.registry()), ("runner", runner)):
        assert variables["HEADRACE_TLS_CERTIFICATE_FILE"] == f"/s/tls/{service}.crt"
        assert variables["HEADRACE_TLS_KEY_FILE"] == f"/s/tls/{service}.key"
        assert variables["HEADRACE_TLS_CA_FILE"] == "/s/tls/ca.crt"
    assert (gateway["HEADRACE_TLS_KEY_FILE"], gateway["HEADRACE_GATEWAY_PUBLIC_TLS"]) == ("/s/tls/gateway.key", "false")
    front = made.http(name="http-0", share_port=False, gateway="g:1")
    assert not any("TLS" in name for name in {**front, **plan().quota(), **plan().registry()})


def test_gateways_and_runners_get_no_database() -> None:
    made = plan()
    gateway = made.gateway(name="gateway-0", share_port=False, quota="q:1", registry="r:1")
    runner = made.runner(name="runner-0", cache=Path("/c"), gateways=["g:1"], registry="r:1")
    common = made.common(state=Path("/s"), ready_file=Path("/r"))
    assert "postgresql://p" not in {**gateway, **runner, **common}.values()


def test_a_runner_dials_every_gateway() -> None:
    runner = plan().runner(name="runner-1", cache=Path("/c"), gateways=["g:1", "g:2"], registry="r:1")
    assert runner["HEADRACE_RUNNER_GATEWAYS"] == "g:1,g:2"


def test_cores_are_divided_among_the_runners_but_each_has_one() -> None:
    def threads(cores: int, runners: int) -> str:
        made = plan(cores=cores, runners=runners)
        return made.runner(name="r", cache=Path("/c"), gateways=[], registry="r:1")["HEADRACE_RUNNER_THREADS"]

    assert [threads(8, 2), threads(8, 3), threads(2, 4)] == ["4", "2", "1"]


def test_settings_of_the_person_reach_services_but_do_not_override_what_holds_the_mesh_together() -> None:
    made = plan(inherited={"HEADRACE_LOG_FORMAT": "json", "HEADRACE_LOG_LEVEL": "debug"})
    common = made.common(state=Path("/state/quota"), ready_file=Path("/ready/quota.json"))
    assert common["HEADRACE_LOG_FORMAT"] == "json"
    assert common["HEADRACE_LOG_LEVEL"] == "debug"
    assert common["HEADRACE_READY_FILE"] == "/ready/quota.json"
    assert common["HEADRACE_ENV"] == "test"


@pytest.mark.parametrize(("chosen", "grace_s"), [({}, 5.0), ("30", 30.0), ("soon", 5.0)])
def test_the_supervisor_waits_as_long_as_the_services_do(chosen: object, grace_s: float) -> None:
    inherited = {"HEADRACE_SHUTDOWN_GRACE_S": chosen} if isinstance(chosen, str) else {}
    made = plan(inherited=inherited)
    assert made.shutdown_grace_s == grace_s
    told = made.common(state=Path("/s"), ready_file=Path("/r"))["HEADRACE_SHUTDOWN_GRACE_S"]
    assert told == (chosen if isinstance(chosen, str) else "5")


def test_stores_client_settings_and_tls_are_not_inherited(tmp_path: Path) -> None:
    kept = {"PATH": "/bin", "HEADRACE_LOG_LEVEL": "info"}
    dropped = {"HEADRACE_POSTGRES_URL": "secret", "HEADRACE_API_KEY": "key", "HEADRACE_TLS_KEY_FILE": "/key"}
    assert inherited_environment({**kept, **dropped}, folder=tmp_path) == kept


def test_the_folder_of_settings_is_absolute_and_found_where_the_command_starts(tmp_path: Path) -> None:
    def config_dir(environ: dict[str, str]) -> str | None:
        return inherited_environment(environ, folder=tmp_path).get("HEADRACE_CONFIG_DIR")

    assert config_dir({}) is None
    assert config_dir({"HEADRACE_CONFIG_DIR": "mine"}) == str(tmp_path / "mine")
    assert config_dir({"HEADRACE_CONFIG_DIR": "/etc/headrace"}) == "/etc/headrace"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.yaml").write_text("")
    assert config_dir({}) == str(tmp_path / "config")


def test_processes_are_numbered_from_zero() -> None:
    assert process_names("gateway", 2) == ["gateway-0", "gateway-1"]
