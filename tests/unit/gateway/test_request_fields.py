"""A reader that remembers requests says of each what one says that has seen no other."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_common import wire
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.request_fields import RequestFieldReader, RequestFields
from inference import open_inference_pb2 as oip

NAME, VERSION, ID, PARAMETERS, INPUTS, RAW, UNKNOWN = 1, 2, 3, 4, 5, 7, 9
FOUR = [b"aaaa", b"bbbb", b"\x0a\x02zz", b"\x12\x029\x30"]
HEADER = wire.len_field_header(RAW, 4)
PRIORITY = oip.ModelInferRequest(parameters={"priority": oip.InferParameter(int64_param=1)}).SerializeToString()


def padded(payload: bytes) -> bytes:
    """The field's length in more bytes than it takes."""
    return payload[:1] + bytes([payload[1] | 0x80, 0]) + payload[2:]


texts = st.sampled_from([b"m", b"n", b"1"])
elements = st.sampled_from(FOUR)
fields = st.one_of(
    st.builds(lambda text: wire.encode_len_field(NAME, text), texts),
    st.builds(lambda text: wire.encode_len_field(VERSION, text), texts),
    st.builds(lambda four: wire.encode_len_field(ID, HEADER + four), elements),
    st.builds(lambda four: wire.encode_len_field(VERSION, HEADER + four), elements),
    st.builds(lambda four: wire.encode_len_field(RAW, four), elements),
    st.builds(lambda four: padded(wire.encode_len_field(RAW, four)), elements),
    st.builds(lambda four: wire.encode_len_field(UNKNOWN, HEADER + four), elements),
    st.builds(lambda four: four, elements),
    st.just(PRIORITY),
)
payloads = st.builds(b"".join, st.lists(fields, max_size=5))


def said(reader: RequestFieldReader, payload: bytes) -> RequestFields | str:
    try:
        return reader.read(payload)
    except HeadraceError as error:
        return error.reason


def request(name: bytes, *rest: bytes) -> bytes:
    return wire.encode_len_field(NAME, name) + b"".join(rest)


@given(st.lists(payloads, max_size=30))
@example(
    # What looks like elements is the end of a version.
    [
        request(b"m", wire.encode_len_field(RAW, b"aaaa"), wire.encode_len_field(VERSION, HEADER + b"bbbb")),
        request(b"m", wire.encode_len_field(RAW, b"aaaa"), wire.encode_len_field(VERSION, HEADER + b"cccc")),
    ]
)
@example(
    # Here it is a name that wins over the first.
    [
        request(b"m", wire.encode_len_field(RAW, b"aaaa"), wire.encode_len_field(NAME, HEADER + b"bbbb")),
        request(b"m", wire.encode_len_field(RAW, b"aaaa"), wire.encode_len_field(NAME, HEADER + b"cccc")),
    ]
)
def test_what_was_read_before_changes_nothing(sequence: list[bytes]) -> None:
    reader = RequestFieldReader()
    for payload in [*sequence, *sequence]:
        assert said(reader, payload) == said(RequestFieldReader(), payload)


def test_a_model_s_name_after_the_elements_is_read_each_time() -> None:
    """Fields may come in any order, and the last of a repeated one wins."""
    reader = RequestFieldReader()
    for name in (b"first", b"other"):
        # The elements of a raw content whose walk ends before them: they are fields of the request.
        sent = wire.encode_len_field(RAW, HEADER + b"aa") + request(name)
        assert reader.read(sent).model_name == name.decode()
        assert (
            reader.read(request(b"m", wire.encode_len_field(RAW, b"aaaa"), request(name))).model_name == name.decode()
        )


def test_elements_that_look_like_fields_are_elements() -> None:
    reader = RequestFieldReader()
    for elements_ in (b"aaaa", b"\x0a\x02zz"):
        assert reader.read(request(b"m", wire.encode_len_field(RAW, elements_))) == RequestFields("m", "")


def with_parameters(**parameters: oip.InferParameter) -> bytes:
    return oip.ModelInferRequest(model_name="m", parameters=parameters).SerializeToString()


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        (oip.InferParameter(int64_param=7), "n7"),
        (oip.InferParameter(uint64_param=7), "n7"),
        (oip.InferParameter(int64_param=-1), f"n{2**64 - 1}"),
        (oip.InferParameter(string_param="7"), "t7"),
        (oip.InferParameter(int64_param=0), ""),
        (oip.InferParameter(string_param=""), ""),
        (oip.InferParameter(), ""),
        # Bad ones: the runner says so.
        (oip.InferParameter(string_param="x" * 129), ""),
        (oip.InferParameter(double_param=7), ""),
        (oip.InferParameter(bool_param=True), ""),
    ],
)
def test_a_sequence_is_told_from_others(name: oip.InferParameter, sequence: str) -> None:
    read = RequestFieldReader().read(
        with_parameters(sequence_id=name, sequence_start=oip.InferParameter(bool_param=True))
    )
    assert (read.sequence, read.sequence_start) == (sequence, True)


def test_what_routing_asks_for_is_read_beside_the_rest() -> None:
    read = RequestFieldReader().read(
        with_parameters(
            priority=oip.InferParameter(uint64_param=1),
            timeout=oip.InferParameter(int64_param=5_000),
            latency_critical=oip.InferParameter(bool_param=True),
            temperature=oip.InferParameter(double_param=0.5),
            n=oip.InferParameter(int64_param=4),
        )
    )
    assert read == RequestFields("m", "", priority=9, timeout_us=5_000, latency_critical=True, completions=4)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"priority": oip.InferParameter(bool_param=True)}, "priority"),
        ({"timeout": oip.InferParameter(int64_param=-1)}, "timeout"),
        ({"latency_critical": oip.InferParameter(int64_param=1)}, "latency_critical"),
        ({"latency_critical": oip.InferParameter(double_param=1)}, "latency_critical"),
    ],
)
def test_what_routing_can_not_read_is_refused(parameters: dict[str, oip.InferParameter], field: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        RequestFieldReader().read(with_parameters(**parameters))
    assert (caught.value.reason, caught.value.field) == ("PARAMETER_INVALID", f"parameters.{field}")
