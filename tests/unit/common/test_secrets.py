"""Secret files and Vault's HTTP interface, spoken to a server on the loopback."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.secrets import read_secret, read_secret_file, resolve_secret, write_secret_file

SECRETS: dict[str, dict[str, Any]] = {
    "/v1/secret/data/headrace": {"data": {"data": {"postgres": "pw2"}, "metadata": {"version": 3}}},
    "/v1/kv/odd": {"data": ["no", "mapping"]},
    "/v1/kv/headrace": {"data": {"postgres": "pw1"}},
}


class VaultPeer(BaseHTTPRequestHandler):
    """As much of Vault's HTTP interface as reading a secret takes."""

    logins: list[dict[str, str]]

    def do_GET(self) -> None:
        if self.headers["X-Vault-Token"] != "s.good":
            self._answer(403, {"errors": ["permission denied"]})
        elif self.path in SECRETS:
            self._answer(200, SECRETS[self.path])
        else:
            self._answer(404, {"errors": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["role"].startswith("malformed "):
            self._answer(200, json.loads(body["role"].removeprefix("malformed ")))
            return
        good = self.path == "/v1/auth/kubernetes/login" and body == {"role": "headrace", "jwt": "account-token"}
        self._answer(200, {"auth": {"client_token": "s.good"}}) if good else self._answer(403, {"errors": ["no"]})

    do_PUT = do_POST  # noqa: N815 - the base class's naming

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def vault() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), VaultPeer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_literal_is_itself() -> None:
    assert resolve_secret("plain") == "plain"


def test_both_versions_of_the_kv_engine_are_read(vault: str) -> None:
    environ = {"VAULT_ADDR": vault, "VAULT_TOKEN": "s.good"}
    assert resolve_secret("vault://secret/data/headrace#postgres", environ=environ) == "pw2"
    assert resolve_secret("vault://kv/headrace#postgres", environ=environ) == "pw1"


def test_a_token_file_and_a_kubernetes_role_open_vault(vault: str, tmp_path: Path) -> None:
    token, account = tmp_path / "token", tmp_path / "account"
    token.write_text("s.good\n")
    account.write_text("account-token")
    by_file = {"VAULT_ADDR": vault, "HEADRACE_VAULT_TOKEN_FILE": str(token)}
    assert resolve_secret("vault://kv/headrace#postgres", environ=by_file) == "pw1"
    by_role = {
        "VAULT_ADDR": vault,
        "HEADRACE_VAULT_KUBERNETES_ROLE": "headrace",
        "HEADRACE_VAULT_KUBERNETES_TOKEN_FILE": str(account),
    }
    assert resolve_secret("vault://kv/headrace#postgres", environ=by_role) == "pw1"
    with pytest.raises(ConfigError):
        resolve_secret("vault://kv/headrace#postgres", environ=by_role | {"HEADRACE_VAULT_KUBERNETES_ROLE": "other"})


@pytest.mark.parametrize(
    ("reference", "token"),
    [
        ("vault://kv/headrace#missing", "s.good"),
        ("vault://kv/none#postgres", "s.good"),
        ("vault://kv/odd#postgres", "s.good"),
        ("vault://kv/headrace#postgres", "s.bad"),
        ("vault://kv/headrace", "s.good"),
        ("vault://#postgres", "s.good"),
        ("vault://kv/headrace#postgres", ""),
    ],
)
def test_what_vault_does_not_give_names_the_reference(vault: str, reference: str, token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_secret(reference, environ={"VAULT_ADDR": vault, "VAULT_TOKEN": token})
    assert caught.value.entry is catalogue.SECRET_UNAVAILABLE
    assert reference in caught.value.message
    assert "permission denied" not in caught.value.message


@pytest.mark.parametrize("answer", ["{}", '{"auth": null}', '{"auth": {}}', "[]"])
def test_a_malformed_kubernetes_login_is_typed(vault: str, tmp_path: Path, answer: str) -> None:
    account = tmp_path / "account"
    account.write_text("account-token")
    environ = {
        "VAULT_ADDR": vault,
        "HEADRACE_VAULT_KUBERNETES_ROLE": f"malformed {answer}",
        "HEADRACE_VAULT_KUBERNETES_TOKEN_FILE": str(account),
    }
    with pytest.raises(ConfigError) as caught:
        resolve_secret("vault://kv/headrace#postgres", environ=environ)
    assert caught.value.entry is catalogue.SECRET_UNAVAILABLE


def test_a_secret_is_read_from_a_path_a_file_reference_and_vault(vault: str, tmp_path: Path) -> None:
    path = tmp_path / "a key"
    path.write_text("secret\n")
    for reference in (path, str(path), f"file://{tmp_path}/a%20key"):
        assert read_secret(reference) == "secret"
    environ = {"VAULT_ADDR": vault, "VAULT_TOKEN": "s.good"}
    assert read_secret("vault://kv/headrace#postgres", environ=environ) == "pw1"
    with pytest.raises(ConfigError):
        read_secret("not a file")


def test_an_unreachable_vault_is_typed() -> None:
    for environ in ({"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "x"}, {}):
        with pytest.raises(ConfigError):
            resolve_secret("vault://kv/headrace#postgres", environ=environ)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * ((1 << 20) + 1)])
def test_an_unusable_secret_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_secret_file(path)


def test_a_secret_file_is_written_for_its_owner_alone_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "key"
    write_secret_file(path, "one")
    write_secret_file(path, "two\n")
    assert read_secret_file(path) == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
