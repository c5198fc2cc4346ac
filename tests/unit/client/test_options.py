"""Where endpoint, key and TLS come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_client import Tls, client_options
from headrace_client.errors import ConfigError

FILE = """
[profiles.default]
endpoint = "default.example.com:443"
api_key = "default-key"
tls = true

[profiles.lab]
endpoint = "lab.example.com:8081"
api_key = "@{key}"

[profiles.strict]
endpoint = "https://strict.example.com:443"
tls = {{ ca_file = "~/ca.pem", server_name = "mesh" }}
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "key").write_text("lab-key\n")
    path = tmp_path / "config.toml"
    path.write_text(FILE.format(key=tmp_path / "key"))
    return {"HEADRACE_CONFIG": str(path)}


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "absent")}


def test_without_anything_it_is_the_local_mesh_with_its_well_known_key(nothing: dict[str, str]) -> None:
    options = client_options(environ=nothing)
    assert (options.endpoint, options.api_key, options.tls) == ("127.0.0.1:8081", "community", None)


def test_the_well_known_key_is_never_sent_to_another_machine(nothing: dict[str, str]) -> None:
    assert client_options("mesh.example.com:443", environ=nothing).api_key is None
    for local in ("localhost:1", "127.0.0.2:1", "[::1]:1", "unix:/run/mesh"):
        assert client_options(local, environ=nothing).api_key == "community"
    for foreign in ("localhost.example.com:1", "127.example.com:1", "127.0.0.1.example.com:1", "[2001:db8::1]:1"):
        assert client_options(foreign, environ=nothing).api_key is None


def test_another_default_endpoint_stands_behind_environment_and_profile(
    nothing: dict[str, str], environ: dict[str, str]
) -> None:
    assert client_options(default_endpoint="127.0.0.1:9", environ=nothing).endpoint == "127.0.0.1:9"
    assert client_options(default_endpoint="127.0.0.1:9", environ=environ).endpoint == "default.example.com:443"
    nothing["HEADRACE_ENDPOINT"] = "env:1"
    assert client_options(default_endpoint="127.0.0.1:9", environ=nothing).endpoint == "env:1"


def test_an_empty_key_calls_without_one(nothing: dict[str, str]) -> None:
    assert client_options(api_key="", environ=nothing).api_key is None


def test_arguments_win_over_a_named_profile_and_that_over_the_environment(environ: dict[str, str]) -> None:
    environ |= {"HEADRACE_ENDPOINT": "env:1", "HEADRACE_API_KEY": "env-key"}
    named = client_options(profile="lab", environ=environ)
    assert (named.endpoint, named.api_key) == ("lab.example.com:8081", "lab-key")
    assert client_options("arg:1", profile="lab", environ=environ).endpoint == "arg:1"
    assert client_options(profile="lab", api_key="arg-key", environ=environ).api_key == "arg-key"
    plain = client_options(environ=environ)
    assert (plain.endpoint, plain.api_key) == ("env:1", "env-key")


def test_a_profile_of_the_environment_or_the_default_one_fills_what_is_left(environ: dict[str, str]) -> None:
    options = client_options(environ=environ)
    assert (options.endpoint, options.api_key, options.tls) == ("default.example.com:443", "default-key", Tls())
    chosen = client_options(environ={**environ, "HEADRACE_PROFILE": "strict"})
    assert (chosen.endpoint, chosen.api_key) == ("strict.example.com:443", None)
    assert client_options("https://x:1", tls=False, environ=environ).tls is None


def test_a_key_stays_with_the_endpoint_of_its_profile(environ: dict[str, str]) -> None:
    for given in (
        client_options("other.example.com:1", environ=environ),
        client_options(environ={**environ, "HEADRACE_ENDPOINT": "other.example.com:1"}),
        client_options("other.example.com:1", environ={**environ, "HEADRACE_PROFILE": "lab"}),
    ):
        assert (given.endpoint, given.api_key, given.tls) == ("other.example.com:1", None, None)


def test_the_key_of_the_environment_stays_away_from_the_endpoint_of_a_named_profile(environ: dict[str, str]) -> None:
    environ["HEADRACE_API_KEY"] = "env-key"
    assert client_options(profile="strict", environ=environ).api_key is None
    assert client_options(profile="strict", api_key="arg-key", environ=environ).api_key == "arg-key"
    assert client_options("arg:1", profile="strict", environ=environ).api_key == "env-key"


def test_a_profile_may_say_the_particulars_of_tls(environ: dict[str, str]) -> None:
    tls = client_options(profile="strict", environ=environ).tls
    assert tls == Tls(ca_file=Path("~/ca.pem").expanduser(), server_name="mesh")


@pytest.mark.parametrize(("endpoint", "tls"), [("https://mesh:1/", Tls()), ("http://mesh:1", None), ("mesh:1", None)])
def test_a_scheme_says_whether_the_connection_is_encrypted(
    endpoint: str, tls: Tls | None, nothing: dict[str, str]
) -> None:
    options = client_options(endpoint, environ=nothing)
    assert (options.endpoint, options.tls) == ("mesh:1", tls)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("profiles = [", "is not TOML"),
        ("[profiles.other]\n", "no profile 'lab'; its profiles: other"),
        ("[profiles.lab]\nendpont = 'x'\n", "unknown field 'endpont'"),
        ("[profiles.lab]\nendpoint = 1\n", "'endpoint' of the profile must be a text"),
        ("[profiles.lab]\ntls = 'yes'\n", "'tls' of the profile must be true, false or a table"),
        ("[profiles.lab]\ntls = { ca = 'x' }\n", "may have ca_file, cert_file, key_file, server_name only"),
        ("[profiles.lab]\napi_key = '@/nowhere/key'\n", "can't be read from /nowhere/key"),
        ("[profiles]\nlab = 1\n", "must be a table"),
        ("profiles = 1\n", "must be a table of tables"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_cant_be_right_is_named_with_what_is_wrong(
    content: str | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        client_options(profile="lab", environ={"HEADRACE_CONFIG": str(path)})


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", " a", "a "])
def test_a_key_that_no_header_may_hold_is_refused(key: str, nothing: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="printable ASCII"):
        client_options(api_key=key, environ=nothing)


def test_a_key_is_never_printed(nothing: dict[str, str]) -> None:
    assert "secret" not in repr(client_options(api_key="secret", environ=nothing))
