"""The bound on held request bytes, and the bound on the fields of one request."""

from __future__ import annotations

import pytest

from headrace_common.errors import RouteUnavailable, ValidationError
from headrace_common.wire import REQUEST_FIELDS_MAX as FIELDS_MAX
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.request_fields import RequestFieldReader
from inference.open_inference_pb2 import ModelInferRequest


def test_requests_over_the_bound_are_refused_and_room_comes_back() -> None:
    gate = PayloadGate(bytes_max=100)
    gate.enter(60)
    with pytest.raises(RouteUnavailable, match="more than 100"):
        gate.enter(41)
    gate.enter(40)
    gate.leave(60)
    gate.leave(40)
    assert gate.held_bytes == 0


def test_request_of_very_many_fields_is_refused_before_it_is_walked() -> None:
    name = ModelInferRequest(model_name="m").SerializeToString()
    unknown = b"\xa0\x06\x01"
    assert RequestFieldReader().read(name + unknown * (FIELDS_MAX - 1)).model_name == "m"
    with pytest.raises(ValidationError):
        RequestFieldReader().read(name + unknown * FIELDS_MAX)
