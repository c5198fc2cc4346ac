"""What `headrace certs` and `headrace runners token` write."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from headrace_cli.app import app
from headrace_cli.certificates.authority import Wanted, alternative_name, issue, new_authority
from headrace_cli.certificates.files import SERVICES, CertificateFiles, CertificateFilesError, renewed, wanted_of
from headrace_client.errors import HeadraceError
from headrace_common.join_tokens import digest_of, read_join_tokens
from headrace_common.tls_files import TlsFiles

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def asked(*arguments: str) -> Any:
    """The answer as a document."""
    result = CliRunner().invoke(app, [*arguments, "--json"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code != 0
    message = result.output if result.exit_code == 2 else str(result.exception)
    return " ".join(message.replace("│", " ").split())


def files_of(folder: Path, name: str) -> TlsFiles:
    return TlsFiles(certificate=folder / f"{name}.crt", key=folder / f"{name}.key", authorities=folder / "ca.crt")


def chains(folder: Path, name: str) -> bool:
    """Whether the certificate is the authority's."""
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    ssl.create_default_context(cafile=folder / "ca.crt").load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return True


def certificate_of(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def test_init_makes_what_services_can_use_with_keys_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = asked(
        "certs", "init", "--dir", str(folder), "--host", "mesh.example.com", "--host", "10.0.0.7", "--days", "9"
    )
    assert [one["name"] for one in made] == ["ca", *sorted(SERVICES)]
    for one in made[1:]:
        assert files_of(folder, one["name"]).read().subject == f"CN={one['name']}"
        assert chains(folder, one["name"])
        hosts = {"localhost", "127.0.0.1", "mesh.example.com", "10.0.0.7"}
        uses = certificate_of(folder, one["name"]).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if one["name"] == "runner":
            # It must not pass for a service of the mesh on the same machine.
            assert len(one["names"]) == 1 and ExtendedKeyUsageOID.SERVER_AUTH not in uses
        else:
            assert hosts <= set(one["names"]) and ExtendedKeyUsageOID.SERVER_AUTH in uses
        assert f"spiffe://headrace/{one['name']}" in one["names"]
        left = datetime.fromisoformat(one["ends_at"]) - datetime.now(UTC)
        assert timedelta(days=8) < left <= timedelta(days=9)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    assert asked("certs", "show", "--dir", str(folder)) == made


def test_nothing_is_replaced_unless_it_is_forced(tmp_path: Path) -> None:
    asked("certs", "init", "--dir", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for command in (("init",), ("issue", "gateway")):
        assert "--force replaces it" in refused("certs", *command, "--dir", str(tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    asked("certs", "init", "--dir", str(tmp_path), "--force")
    assert all(path.read_bytes() != content for path, content in before.items())


def test_renewed_certificates_say_the_same_with_other_keys_by_the_same_authority(tmp_path: Path) -> None:
    asked("certs", "init", "--dir", str(tmp_path), "--host", "mesh.example.com")
    asked("certs", "issue", "runner", "--name", "acme", "--tenant", "acme", "--runner", "gpu-1", "--dir", str(tmp_path))
    before, keys = asked("certs", "show", "--dir", str(tmp_path)), _keys(tmp_path)
    asked("certs", "renew", "gateway", "--dir", str(tmp_path))
    assert {name for name, key in _keys(tmp_path).items() if key != keys[name]} == {"gateway"}
    after = asked("certs", "renew", "--dir", str(tmp_path))
    assert [(one["name"], sorted(one["names"])) for one in after] == [(o["name"], sorted(o["names"])) for o in before]
    assert {name for name, key in _keys(tmp_path).items() if key == keys[name]} == {"ca"}
    assert chains(tmp_path, "acme")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "--host", "not a host"], "neither a DNS name"),
        (["init", "--host", "999.1.1.1"], "neither a DNS name"),
        (["init", "--host", "a..b"], "neither a DNS name"),
        (["init", "--host", "x" * 300], "neither a DNS name"),
        (["init", "--service", "../x"], "a service's name"),
        (["init", "--service", "ca"], "a service's name"),
        (["init", "--trust-domain", "Head Race"], "trust domain"),
        (["init", "--days", "0"], "--days"),
        (["init", "--days", "99999999"], "--days"),
        (["issue", "gateway"], "there is no authority"),
        (["issue", "gateway", "--tenant", "acme"], "service runner"),
        (["issue", "runner", "--tenant", "ACME"], "a tenant has"),
        (["issue", "runner", "--name", "../../x"], "a service's name"),
        (["renew"], "nothing to renew"),
        (["renew", "gateway"], "can't be read"),
        (["show"], "holds no certificate"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(arguments: list[str], said: str, tmp_path: Path) -> None:
    message = refused("certs", *arguments, "--dir", str(tmp_path / "none"))
    assert said in message
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nMIIB"])
def test_what_is_no_authority_signs_nothing(damage: bytes, tmp_path: Path) -> None:
    asked("certs", "init", "--dir", str(tmp_path))
    files = CertificateFiles(tmp_path)
    for path in (files.certificate("ca"), files.key("ca")):
        good = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(CertificateFilesError):
            files.read_authority()
        path.write_bytes(good)
    for path, other in ((files.certificate("ca"), files.certificate("quota")), (files.key("ca"), files.key("quota"))):
        good = path.read_bytes()
        path.write_bytes(other.read_bytes())
        with pytest.raises(CertificateFilesError, match="no authority"):
            files.read_authority()
        path.write_bytes(good)
    files.certificate("gateway").write_bytes(damage)
    with pytest.raises(CertificateFilesError, match="holds no certificate"):
        renewed(files, "gateway")


def test_no_certificate_outlives_its_authority() -> None:
    authority = new_authority("ca", now=NOW, lasts=timedelta(days=10))
    wanted = Wanted(name="x", uri="spiffe://headrace/x", hosts=["localhost"])
    late = issue(authority, wanted, now=NOW + timedelta(days=9), lasts=timedelta(days=90))
    assert late.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(ValueError, match="authority has expired"):
        issue(authority, wanted, now=NOW + timedelta(days=10), lasts=timedelta(days=1))


@pytest.mark.parametrize("host", ["localhost", "*.mesh.example.com", "GATEWAY", "a-1.b", "127.0.0.1", "::1"])
def test_hosts_are_names_or_addresses(host: str) -> None:
    assert str(alternative_name(host).value) == host.lower()


def test_gateways_are_known_by_the_name_that_runners_dial() -> None:
    hosts = wanted_of("gateway").hosts
    assert {"gateway", "gateway-mesh.headrace.svc.cluster.local"} <= set(hosts)
    assert not any("runner" in host for host in wanted_of("runner").hosts)


def test_a_token_is_written_for_its_runner_and_its_digest_for_gateways(tmp_path: Path) -> None:
    file, out = tmp_path / "tokens", tmp_path / "acme.token"
    made = asked("runners", "token", "create", "--file", str(file), "--out", str(out), "--tenant", "acme")
    shown = asked("runners", "token", "create", "--file", str(file), "--expires-in-days", "2")
    entries = read_join_tokens(file)
    assert entries[digest_of(out.read_text().strip())].tenant == "acme"
    assert entries[digest_of(shown["token"])].expires_at is not None
    assert (out.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o600, 0o600)
    assert "token" not in made
    assert {one["id"] for one in asked("runners", "token", "list", "--file", str(file))} == {made["id"], shown["id"]}
    asked("runners", "token", "revoke", made["id"], "--file", str(file))
    assert [entry.id for entry in read_join_tokens(file).values()] == [shown["id"]]


def test_tokens_that_can_not_be_made_or_taken_out_are_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "tokens", tmp_path / "out"
    out.write_text("mine")
    assert "exists" in refused("runners", "token", "create", "--file", str(file), "--out", str(out))
    assert "a tenant must be" in refused("runners", "token", "create", "--file", str(file), "--tenant", "A")
    assert "can't be read" in refused("runners", "token", "list", "--file", str(file))
    file.write_text("{}")
    assert "must hold" in refused("runners", "token", "create", "--file", str(file))
    file.write_text('{"tokens": []}')
    assert "has no token" in refused("runners", "token", "revoke", "x", "--file", str(file))
    assert (out.read_text(), file.read_text()) == ("mine", '{"tokens": []}')
    with pytest.raises(HeadraceError):
        asked("runners", "token", "list", "--file", str(tmp_path / "absent"))


def _keys(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in folder.glob("*.key")}
