"""Valkey's process gets nothing that it has no use for."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_cli.mesh.embedded_valkey import EmbeddedValkey


def test_it_inherits_path_and_time_zone_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_POSTGRES_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("TZ", "UTC")
    valkey = EmbeddedValkey(binary=tmp_path / "valkey-server", folder=tmp_path, password="p", log=tmp_path / "log")
    assert set(valkey.spec().environment) == {"PATH", "TZ"}
