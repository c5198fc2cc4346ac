"""Where commands look for the mesh and the key, and in which order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headrace_cli.session import Session
from headrace_client import Tls
from headrace_client.errors import ConfigError

PROFILES = """
[profiles.default]
endpoint = "default.example.com:443"
api_key = "default-key"
tls = true

[profiles.lab]
endpoint = "lab.example.com:8081"
api_key = "lab-key"

[profiles.keyless]
endpoint = "keyless.example.com:8081"
"""


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine."""
    for name in list(os.environ):
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HEADRACE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def profiles(tmp_path: Path) -> None:
    path = tmp_path / "config" / "headrace" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(PROFILES)


@pytest.fixture
def local_mesh(tmp_path: Path) -> Path:
    """The file that a mesh on the state directory publishes; this process stands for the supervisor."""
    path = tmp_path / "state" / "mesh.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"grpc": "127.0.0.1:4711", "pid": os.getpid()}))
    return path


def found(session: Session) -> tuple[str, str | None]:
    options = session.options()
    return options.endpoint, options.api_key


def test_without_anything_it_is_the_usual_port_of_this_machine() -> None:
    assert found(Session()) == ("127.0.0.1:8081", "community")


@pytest.mark.usefixtures("local_mesh")
def test_the_mesh_on_the_state_directory_comes_before_that() -> None:
    assert found(Session()) == ("127.0.0.1:4711", "community")


@pytest.mark.usefixtures("local_mesh", "profiles")
def test_flag_then_environment_then_profile_then_local_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(Session()) == ("default.example.com:443", "default-key")
    monkeypatch.setenv("HEADRACE_PROFILE", "lab")
    assert found(Session()) == ("lab.example.com:8081", "lab-key")
    monkeypatch.setenv("HEADRACE_ENDPOINT", "env.example.com:1")
    monkeypatch.setenv("HEADRACE_API_KEY", "env-key")
    assert found(Session()) == ("env.example.com:1", "env-key")
    assert found(Session(profile="lab")) == ("lab.example.com:8081", "lab-key")
    assert found(Session(endpoint="flag:1", api_key="flag-key", profile="lab")) == ("flag:1", "flag-key")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"grpc": "127.0.0.1:1", "pid": "x"}',
        '{"grpc": "127.0.0.1:1", "pid": 99999999999}',
        '{"grpc": "127.0.0.1:1", "pid": 0}',
        '{"grpc": "127.0.0.1:1", "pid": -1}',
    ],
)
def test_a_file_that_no_running_mesh_wrote_is_no_mesh(content: str, local_mesh: Path) -> None:
    local_mesh.write_text(content)
    assert found(Session())[0] == "127.0.0.1:8081"


@pytest.mark.parametrize(
    "endpoint",
    ["evil.example.com:443", "192.0.2.1:1", "localhost:1", "https://127.0.0.1:1", "dns:///evil:1", "127.0.0.1", ""],
)
def test_a_mesh_on_the_state_directory_is_on_this_machine(
    endpoint: str, local_mesh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_API_KEY", "secret")
    local_mesh.write_text(json.dumps({"grpc": endpoint, "pid": os.getpid()}))
    assert found(Session())[0] == "127.0.0.1:8081"


def test_a_file_of_somebody_else_is_no_mesh(local_mesh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: local_mesh.stat().st_uid + 1)
    assert found(Session())[0] == "127.0.0.1:8081"


@pytest.mark.usefixtures("profiles")
def test_the_key_of_the_environment_never_goes_to_a_named_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEY", "env-key")
    assert found(Session(profile="keyless")) == ("keyless.example.com:8081", None)
    assert found(Session(profile="keyless", api_key="flag-key")) == ("keyless.example.com:8081", "flag-key")
    assert found(Session(profile="keyless", endpoint="flag:1")) == ("flag:1", "env-key")


@pytest.mark.usefixtures("profiles")
def test_the_key_of_a_profile_never_goes_to_another_endpoint() -> None:
    assert found(Session(endpoint="other.example.com:1")) == ("other.example.com:1", None)


def test_authorities_of_ones_own_mean_tls(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    assert Session(ca_file=ca_file).options().tls == Tls(ca_file=ca_file)
    assert Session(ca_file=ca_file, tls=False).options().tls is None
    assert Session(tls=True).options().tls == Tls()


def test_an_empty_key_calls_without_one() -> None:
    assert found(Session(api_key=""))[1] is None


@pytest.mark.usefixtures("profiles")
def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="its profiles: default, keyless, lab"):
        Session(profile="prod").options()
