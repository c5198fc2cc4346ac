"""What is told of TLS files that can't be used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.settings import ServiceSettings
from headrace_common.tls import Tls, TlsMetrics
from headrace_common.tls_files import TlsFiles
from support.certificates import Authority

Damage = Callable[[TlsFiles, Authority], object]


def _write(part: str, content: bytes) -> Damage:
    return lambda files, _: Path(str(getattr(files, part))).write_bytes(content)


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no certificate": (lambda files, _: Path(str(files.certificate)).unlink(), "CERTIFICATE", "can't be read"),
    "empty certificate": (_write("certificate", b""), "CERTIFICATE", "no certificate"),
    "text": (_write("certificate", b"hello"), "CERTIFICATE", "no certificate"),
    "truncated": (_write("certificate", b"-----BEGIN CERTIFICATE-----\nMIIB"), "CERTIFICATE", "no certificate"),
    "expired": (lambda _, ours: ours.issue("it", ends_in=timedelta(days=-1)), "CERTIFICATE", "has expired"),
    "no key": (lambda files, _: Path(str(files.key)).unlink(), "KEY", "can't be read"),
    "empty key": (_write("key", b""), "KEY", "can't be read"),
    "key of nothing": (_write("key", b"hello"), "KEY", "no private key"),
    "another's key": (
        lambda files, ours: Path(str(files.key)).write_bytes(Path(str(ours.issue("other").key)).read_bytes()),
        "KEY",
        "not the key of",
    ),
    "no authorities": (lambda files, _: Path(str(files.authorities)).unlink(), "CA", "can't be read"),
    "empty authorities": (_write("authorities", b""), "CA", "no certificate"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_can_not_be_used_names_its_variable(name: str, tmp_path: Path) -> None:
    damage, setting, why = DAMAGES[name]
    ours = Authority(tmp_path, "ours")
    files = ours.issue("it")
    assert files.read().subject == "CN=it"
    damage(files, ours)
    with pytest.raises(ConfigError, match=why) as caught:
        Tls(files=files)
    assert caught.value.context["variable"] == f"HEADRACE_TLS_{setting}_FILE"
    assert caught.value.message.startswith(f"HEADRACE_TLS_{setting}_FILE ")


def test_a_certificate_of_tomorrow_is_not_used_today(tmp_path: Path) -> None:
    files = Authority(tmp_path, "ours").issue("it")
    with pytest.raises(ConfigError, match="HEADRACE_TLS_CA_FILE begins at"):
        files.read(now=datetime.now(UTC) - timedelta(days=9))


def test_settings_give_all_none_or_an_error(tmp_path: Path) -> None:
    assert TlsFiles.from_settings(ServiceSettings()) is None
    x = tmp_path / "x"
    halves = ((ServiceSettings(tls_certificate_file=x), "KEY"), (ServiceSettings(tls_key_file=x), "CERTIFICATE"))
    for half, missing in halves:
        with pytest.raises(ConfigError, match=f"HEADRACE_TLS_{missing}_FILE must be set") as caught:
            TlsFiles.from_settings(half)
        assert caught.value.entry is catalogue.SETTING_MISSING


def test_metrics_tell_when_a_certificate_ends_and_what_became_of_changes(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    tls, registry = Tls(files=ours.issue("it")), CollectorRegistry()
    TlsMetrics(kept={"internal": tls, "public": None}, registry=registry)
    ours.issue("it")
    tls.look()
    tls.look()
    assert tls.material.expires_at is not None
    text = generate_latest(registry).decode()
    ends = registry.get_sample_value("headrace_tls_certificate_expires_seconds", {"use": "internal"})
    assert ends == tls.material.expires_at.timestamp()
    assert 'headrace_tls_reloads_total{outcome="taken",use="internal"} 1.0' in text
    assert 'headrace_tls_reloads_total{outcome="refused",use="internal"} 0.0' in text


def test_files_that_stay_bad_are_tried_again_now_and_then(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    files = ours.issue("it")
    day = datetime.now(UTC)
    moments = [day]
    tls = Tls(files=files, now=lambda: moments[-1])
    before = tls.material
    moments.append(day - timedelta(days=9))
    ours.issue("it")
    for _ in range(20):
        tls.look()
    assert (tls.refused, tls.material) == (1, before)
    moments.append(day)
    for _ in range(40):
        tls.look()
    assert (tls.refused, tls.reloads) == (1, 1)
