"""The documented catalogue is the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_common import catalogue
from headrace_common.errors_page import main, page

PUBLISHED = Path(__file__).parents[3] / "docs" / "errors.md"


def test_the_published_page_is_current() -> None:
    assert main([str(PUBLISHED), "--check"]) == 0


def test_every_entry_is_on_the_page_once() -> None:
    text = page()
    for entry in catalogue.ALL:
        assert text.count(f"`{entry.code}`") == 1
        assert f"`{entry.reason}`" in text


def test_a_stale_or_missing_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "errors.md"
    assert main([str(path), "--check"]) == 1
    assert main([str(path)]) == 0
    assert main([str(path), "--check"]) == 0
    path.write_text(path.read_text() + "x")
    assert main([str(path), "--check"]) == 1
    assert "make generate" in capsys.readouterr().err
