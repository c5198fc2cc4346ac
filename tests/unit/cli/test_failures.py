"""Failures as words, as documents and as exit statuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from headrace_cli.failures import explain, failure_of
from headrace_cli.remedies import remedy
from headrace_client.errors import HeadraceError, QuotaExceeded, UnreachableError, ValidationError
from headrace_client.failures import MODEL_NOT_FOUND
from headrace_common.catalogue import ALL


def document(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = explain(failure_of(error), as_json=True)
    said = capsys.readouterr()
    assert said.out == ""
    return status, json.loads(said.err)["error"]


def test_every_reason_of_the_catalogue_has_a_remedy_or_says_it_all() -> None:
    silent = {entry.reason for entry in ALL if not remedy(entry.reason)}
    assert silent == {"FIELD_INVALID"}


def test_reasons_of_a_newer_mesh_are_told_without_a_remedy() -> None:
    assert remedy("SOMETHING_NEW") == ""


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (HeadraceError("x", MODEL_NOT_FOUND), 1, "MODEL_NOT_FOUND"),
        (ValidationError("x"), 1, "FIELD_INVALID"),
        (UnreachableError("x"), 3, "UNREACHABLE"),
        (typer.BadParameter("x"), 2, "USAGE"),
        (PermissionError(13, "Permission denied", "/x"), 1, "LOCAL_FILE"),
        (ZeroDivisionError("x"), 1, "DEFECT"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_kind_has_its_exit_status_and_reason(
    error: Exception, status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(error, capsys)
    assert (told[0], told[1]["reason"]) == (status, reason)


def test_a_document_holds_all_that_the_mesh_said(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValidationError("no", context={"limit": "9"}, field="a.b", request_id="r", retry_after_s=1.5)
    _, told = document(error, capsys)
    assert told == {
        "code": "VALIDATION_004",
        "reason": "FIELD_INVALID",
        "message": "no",
        "remedy": "",
        "retryable": False,
        "retry_after_s": 1.5,
        "field": "a.b",
        "context": {"limit": "9"},
        "request_id": "r",
    }


def test_words_carry_the_code_the_remedy_and_the_pause(capsys: pytest.CaptureFixture[str]) -> None:
    explain(HeadraceError("model 'x\x1b[2J' was not found", MODEL_NOT_FOUND), as_json=False)
    told = capsys.readouterr().err
    assert "[MODEL_001]" in told and "`headrace models list`" in told and "\x1b[2J" not in told
    explain(QuotaExceeded("too much", retry_after_s=2.0), as_json=False)
    assert "Try again in 2 s." in capsys.readouterr().err


def test_a_file_of_this_machine_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _, told = document(FileNotFoundError(2, "No such file or directory", "/nowhere/x"), capsys)
    assert told["message"] == "/nowhere/x: No such file or directory"
