"""Small texts for people."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.gateway.v1 import mesh_pb2
from headrace.registry.v1 import models_pb2
from headrace_cli.commands.models import split_version
from headrace_cli.presentation import enum_text, shape_text, size_text, time_text
from headrace_common.errors import ValidationError


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")]
)
def test_sizes_use_the_largest_fitting_unit(size: int, text: str) -> None:
    assert size_text(size) == text


def test_enums_lose_their_prefix() -> None:
    assert enum_text(models_pb2.VersionState, models_pb2.VERSION_STATE_READY) == "ready"
    assert enum_text(mesh_pb2.RunnerState, mesh_pb2.RUNNER_STATE_DRAINING) == "draining"


def test_times_are_utc_and_absent_ones_empty() -> None:
    assert time_text(Timestamp(seconds=86_400)) == "1970-01-02 00:00:00"
    assert time_text(Timestamp()) == ""


def test_free_axes_are_stars() -> None:
    assert shape_text([-1, 2048]) == "[*, 2048]"
    assert shape_text([]) == "[]"


def test_versions_follow_a_colon() -> None:
    assert split_version("magika") == ("magika", 0)
    assert split_version("magika:3") == ("magika", 3)


@pytest.mark.parametrize("text", ["magika:", "magika:0", "magika:-1", "magika:x", "magika:1:2", "magika:²"])
def test_versions_are_whole_numbers(text: str) -> None:
    with pytest.raises(ValidationError, match="whole number of 1 or more"):
        split_version(text)
