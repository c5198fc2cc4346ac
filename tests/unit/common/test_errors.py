"""The catalogue, the typed failures, and their way over the wire and back."""

from __future__ import annotations

import re
from typing import TypeVar

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry, http
from headrace_common.errors import (
    DeadlineError,
    HeadraceError,
    InferenceTimeout,
    InternalError,
    ModelError,
    QuotaExceeded,
    RetryableError,
    RouteUnavailable,
    StorageError,
    StorageUnavailable,
    TensorError,
    ValidationError,
    error_class,
)
from headrace_common.rpc_status import from_bare_code, from_status, to_status

PINNED = {
    "MODEL_001": ("MODEL_NOT_FOUND", 404),
    "TENSOR_001": ("TENSOR_SHAPE_MISMATCH", 400),
    "DEVICE_001": ("DEVICE_NOT_AVAILABLE", 503),
    "QUOTA_001": ("QUOTA_EXCEEDED", 429),
    "INIT_001": ("INITIALIZATION_FAILED", 500),
    "TIMEOUT_001": ("INFERENCE_TIMEOUT", 504),
}
FAMILIES = {
    *("MODEL", "TENSOR", "DEVICE", "QUOTA", "AUTH", "TENANT", "INIT", "TIMEOUT", "STORAGE", "CONVERSION", "JOB"),
    *("RUNNER", "ROUTE", "CONFIG", "VALIDATION", "INTERNAL"),
}
M = TypeVar("M", bound=Message)
entries = st.sampled_from(catalogue.ALL)


def detail(status: status_pb2.Status, kind: type[M]) -> list[M]:
    found: list[M] = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


def test_pinned_codes_never_change() -> None:
    by_code = {entry.code: entry for entry in catalogue.ALL}
    assert {code: (by_code[code].reason, by_code[code].http) for code in PINNED} == PINNED
    assert catalogue.QUOTA_EXCEEDED.context == ("quotaType", "currentUsage", "limit", "window")


def test_codes_and_reasons_are_unique_and_families_are_known() -> None:
    assert len({entry.code for entry in catalogue.ALL}) == len(catalogue.ALL) >= 60
    assert len(catalogue.BY_REASON) == len(catalogue.ALL)
    assert {entry.family for entry in catalogue.ALL} == FAMILIES


@pytest.mark.parametrize("entry", catalogue.ALL, ids=lambda entry: entry.code)
def test_every_entry_is_complete_and_consistent(entry: CatalogueEntry) -> None:
    assert re.fullmatch(r"[A-Z]+_\d{3}", entry.code)
    assert getattr(catalogue, entry.reason) is entry
    assert entry.grpc in grpc.StatusCode.__members__
    assert entry.summary.endswith(".")
    assert entry.remedy.endswith((".", "…"))
    http_of = {
        "NOT_FOUND": {404},
        "UNAUTHENTICATED": {401},
        "PERMISSION_DENIED": {403},
        "INVALID_ARGUMENT": {400},
        "ALREADY_EXISTS": {409},
        "UNAVAILABLE": {503},
        "DEADLINE_EXCEEDED": {504},
        "RESOURCE_EXHAUSTED": {413, 429, 503, 507},
        "UNIMPLEMENTED": {501},
    }
    # What only HTTP has, has statuses of its own.
    only_http = {405, 408, 415, 431} if getattr(http, entry.reason, None) is entry else set[int]()
    assert entry.http in http_of.get(entry.grpc, {409, 499, 500}) | only_http
    if entry.grpc == "UNAVAILABLE":
        assert entry.retryable


@given(
    entry=entries,
    message=st.text(max_size=128),
    context=st.dictionaries(st.sampled_from(["model", "limit", "tensor"]), st.text(max_size=32)),
    retry_after_s=st.one_of(st.none(), st.floats(0, 3_600)),
    field=st.one_of(st.none(), st.text(min_size=1, max_size=32)),
)
def test_the_type_and_all_parts_survive_the_wire(
    entry: CatalogueEntry, message: str, context: dict[str, str], retry_after_s: float | None, field: str | None
) -> None:
    error = error_class(entry)(message, entry=entry, context=context, retry_after_s=retry_after_s, field=field)
    restored = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert type(restored) is type(error)
    assert (restored.entry, restored.message, restored.context, restored.field) == (entry, message, context, field)
    if entry.retry is not None:
        assert isinstance(restored, RetryableError) or not entry.retryable
        expected_s = entry.retry.initial_s if retry_after_s is None else retry_after_s
        assert restored.retry_after_s == pytest.approx(expected_s, abs=1e-6)
    else:
        assert restored.retry_after_s is None


@given(entries)
def test_retryable_entries_restore_to_retryable_errors(entry: CatalogueEntry) -> None:
    assert issubclass(error_class(entry), RetryableError) is entry.retryable


def test_families_and_special_classes() -> None:
    assert error_class(catalogue.MODEL_NOT_FOUND) is ModelError
    assert error_class(catalogue.TENSOR_MISSING) is TensorError
    assert error_class(catalogue.QUOTA_EXCEEDED) is QuotaExceeded
    assert error_class(catalogue.INFERENCE_TIMEOUT) is InferenceTimeout
    assert error_class(catalogue.CALL_TIMEOUT) is DeadlineError
    assert error_class(catalogue.DATABASE_CONSTRAINT) is StorageError
    assert error_class(catalogue.DATABASE_CONFLICT) is StorageUnavailable


def test_a_quota_failure_names_its_subject_and_when_to_retry() -> None:
    error = QuotaExceeded(
        "the daily quota is used up",
        context={"quotaType": "requests_per_day", "currentUsage": 1000, "limit": 1000},
        retry_after_s=120,
    )
    status = to_status(error)
    (info,) = detail(status, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {
        "code": "QUOTA_001",
        "quotaType": "requests_per_day",
        "currentUsage": "1000",
        "limit": "1000",
    }
    (quota,) = detail(status, error_details_pb2.QuotaFailure)
    assert quota.violations[0].subject == "requests_per_day"
    (retry,) = detail(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.seconds == 120
    assert status.code == code_pb2.RESOURCE_EXHAUSTED


def test_a_field_becomes_a_bad_request() -> None:
    status = to_status(ValidationError("too long", field="inputs[0].name"))
    (bad,) = detail(status, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "inputs[0].name"


def test_an_unmapped_exception_says_nothing_but_its_correlation_id() -> None:
    status = to_status(KeyError("/srv/secret"), "c0ffee")
    assert status.code == code_pb2.INTERNAL
    assert "secret" not in str(status)
    restored = from_status(status)
    assert isinstance(restored, InternalError)
    assert restored.correlation_id == "c0ffee"


@given(st.characters(), st.sampled_from([ModelError, QuotaExceeded]))
def test_what_goes_into_trailing_metadata_is_bounded_in_bytes(character: str, kind: type[HeadraceError]) -> None:
    long = character * 100_000
    error = kind(long, context={f"{n}{long}": long for n in range(100)} | {"quotaType": long}, field=long)
    status = to_status(error, long)
    assert status.ByteSize() <= 4_096
    assert len(status.message.encode()) <= 512
    assert status.message
    assert set(status.message) == {character}


def test_a_text_that_can_not_be_encoded_is_still_a_failure() -> None:
    assert to_status(ModelError("m\ud800")).message == "m?"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_bare_status_has_a_typed_failure_without_the_peers_text(code: grpc.StatusCode) -> None:
    error = from_bare_code(code)
    assert isinstance(error, HeadraceError)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        assert isinstance(error, RouteUnavailable)


def test_details_of_another_domain_or_an_unknown_reason_fall_back_to_the_status_code() -> None:
    for reason, domain in (("MODEL_NOT_FOUND", "googleapis.com"), ("FROM_THE_FUTURE", "headrace")):
        status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="x")
        packed = AnyMessage()
        packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
        status.details.append(packed)
        status.details.append(AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff"))
        assert from_status(status).entry is catalogue.UPSTREAM_UNAVAILABLE


def test_a_retryable_error_waits_longer_each_time_and_never_less_than_the_hint() -> None:
    error = StorageUnavailable("gone")
    delays = [error.delay_s(attempt) for attempt in range(1, 9)]
    assert delays == sorted(delays)
    assert delays[-1] == error.retry_policy.max_s
    assert StorageUnavailable("gone", retry_after_s=7).delay_s(1) == 7


def test_an_error_reads_well_in_a_log() -> None:
    assert str(ModelError("model 'x' was not found")) == "MODEL_001 MODEL_NOT_FOUND: model 'x' was not found"
