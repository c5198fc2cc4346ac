"""Every failure that a mesh can tell arrives at the client as the type, code and reason that it left with."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import status_pb2
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from headrace_client import errors, failures, status
from headrace_client.failures import Failure
from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import error_class
from headrace_common.rpc_status import grpc_code, to_status

SDK_OWN = {name: value for name, value in vars(failures).items() if isinstance(value, Failure)}


def sent(entry: CatalogueEntry, message: str = "what happened", **parts: object) -> bytes:
    failure = error_class(entry)(message, entry=entry, **parts)  # pyright: ignore[reportArgumentType]
    return to_status(failure, "c-1").SerializeToString()


@pytest.mark.parametrize("entry", catalogue.ALL, ids=lambda entry: entry.code)
def test_an_entry_of_the_catalogue_keeps_its_type_code_and_reason(entry: CatalogueEntry) -> None:
    restored = status.from_status_bytes(sent(entry))
    # Only the client has a class of its own for what it, or its user, cancelled.
    refined = {"CALL_CANCELLED": "CallCancelled"}
    assert type(restored).__name__ == refined.get(entry.reason, error_class(entry).__name__)
    assert (restored.code, restored.reason, restored.retryable) == (entry.code, entry.reason, entry.retryable)
    assert restored.grpc_code is grpc_code(entry)
    assert isinstance(restored, errors.RetryableError) is entry.retryable
    assert (restored.message, restored.request_id) == ("what happened", "c-1")


@given(
    entry=st.sampled_from(catalogue.ALL),
    context=st.dictionaries(st.sampled_from(["model", "limit"]), st.text(max_size=20)),
    field=st.none() | st.text(min_size=1, max_size=20),
    retry_after_s=st.none() | st.floats(0, 3600),
)
def test_context_field_and_advice_arrive(
    entry: CatalogueEntry, context: dict[str, str], field: str | None, retry_after_s: float | None
) -> None:
    restored = status.from_status_bytes(sent(entry, context=context, field=field, retry_after_s=retry_after_s))
    assert (restored.context, restored.field) == (context, field)
    if entry.retry is None:
        assert restored.retry_after_s is None
    else:
        expected_s = entry.retry.initial_s if retry_after_s is None else retry_after_s
        assert restored.retry_after_s == pytest.approx(expected_s, abs=1e-6)


@pytest.mark.parametrize("name", sorted(SDK_OWN))
def test_what_the_client_says_by_itself_has_the_catalogues_code(name: str) -> None:
    own = SDK_OWN[name]
    if name == "UNREACHABLE":
        assert name not in catalogue.BY_REASON
        return
    entry = catalogue.BY_REASON[own.reason]
    assert (own.code, own.grpc_code, own.retryable) == (entry.code, grpc_code(entry), entry.retryable)
    assert name == own.reason


def test_a_failure_of_a_newer_mesh_is_known_by_its_family_and_by_whether_to_retry() -> None:
    message = status_pb2.Status.FromString(sent(catalogue.MODEL_LOADING))
    for detail in message.details:
        detail.value = detail.value.replace(b"MODEL_LOADING", b"MODEL_THAWING").replace(b"MODEL_008", b"MODEL_999")
    restored = status.from_status_bytes(message.SerializeToString())
    assert type(restored) is errors.ModelUnavailable
    assert (restored.code, restored.reason) == ("MODEL_999", "MODEL_THAWING")


def test_details_of_others_and_damaged_ones_leave_a_general_failure() -> None:
    foreign = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="nothing here")
    foreign.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    restored = status.from_status_bytes(foreign.SerializeToString())
    assert (type(restored), restored.grpc_code) == (errors.InternalError, grpc.StatusCode.NOT_FOUND)
    assert "nothing here" in restored.message
    assert isinstance(status.from_status_bytes(b"\xff\xff"), errors.InternalError)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED], ids=lambda code: code.name)
def test_a_call_that_the_transport_dropped_may_be_sent_again(code: grpc.StatusCode) -> None:
    dropped = AioRpcError(code, Metadata(), Metadata(), "CANCELLED")
    restored = status.from_rpc_error(dropped, endpoint="127.0.0.1:1")
    assert (type(restored), restored.retryable) == (errors.UnreachableError, True)


@pytest.mark.parametrize("entry", [catalogue.MODEL_NOT_FOUND, catalogue.QUOTA_EXCEEDED], ids=lambda entry: entry.reason)
def test_errors_travel_between_processes(entry: CatalogueEntry) -> None:
    original = status.from_status_bytes(sent(entry, context={"limit": "9"}))
    copied = pickle.loads(pickle.dumps(original))  # noqa: S301
    assert (type(copied), str(copied), vars(copied)) == (type(original), str(original), vars(original))
