"""Small texts for people."""

from __future__ import annotations

import pytest
import typer

from headrace_cli.documents import plain
from headrace_cli.model_names import split_version, with_version, without_version
from headrace_cli.model_pages import statistics_table
from headrace_cli.presentation import enum_text, printable, shape_text, size_text, time_text
from headrace_cli.runner_pages import models_text, runner_line
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import model_statistics_pb2


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")]
)
def test_sizes_use_the_largest_fitting_unit(size: int, text: str) -> None:
    assert size_text(size) == text


def test_enums_lose_their_prefix_and_new_ones_stay_numbers() -> None:
    assert enum_text(models_pb2.Version(state=models_pb2.VERSION_STATE_READY), "state") == "ready"
    key = tenants_pb2.ApiKey(roles=[tenants_pb2.ROLE_MODEL_ADMIN, tenants_pb2.ROLE_USER])
    assert enum_text(key, "roles") == "model_admin, user"
    assert enum_text(mesh_pb2.Runner.FromString(b"\x18\x63"), "state") == "99"


def test_times_are_utc_and_absent_ones_empty() -> None:
    key = tenants_pb2.ApiKey()
    key.create_time.seconds = 86_400
    assert time_text(key, "create_time") == "1970-01-02 00:00:00"
    assert time_text(key, "revoke_time") == ""


def test_free_axes_are_stars() -> None:
    assert shape_text([-1, 2048]) == "[*, 2048]"
    assert shape_text([]) == "[]"


def test_texts_of_others_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\tc\nd\x00☃") == "a\N{REPLACEMENT CHARACTER}[31mb c d\N{REPLACEMENT CHARACTER}☃"
    runner = mesh_pb2.Runner(id="r", name="a\x1b[2Jb")
    assert "\x1b" not in runner_line(runner).plain


def test_models_of_a_runner_tell_their_state_where_it_matters() -> None:
    runner = mesh_pb2.Runner(id="r")
    runner.models.add(model="a", version=1, state=mesh_pb2.MODEL_STATE_LOADED)
    runner.models.add(model="b", version=2, state=mesh_pb2.MODEL_STATE_FAILED, error_reason="MODEL_LOAD_FAILED")
    assert models_text(runner) == "a:1, b:2 (failed: MODEL_LOAD_FAILED)"


def test_counters_without_calls_have_no_mean() -> None:
    counted = model_statistics_pb2.ModelStatistics(name="m", version="1")
    counted.inference_stats.success.count = 4
    counted.inference_stats.success.ns = 10_000_000
    columns = [list(column.cells) for column in statistics_table([counted]).columns]
    assert columns[5:] == [["2.50"], ["-"], ["-"]]


def test_messages_are_documents_with_the_contracts_names_and_all_fields() -> None:
    (document,) = plain([tenants_pb2.ApiKey(id="k")])  # pyright: ignore[reportGeneralTypeIssues]
    assert (document["id"], document["display_name"], document["roles"]) == ("k", "", [])
    assert "revoke_time" not in document


def test_versions_follow_a_colon() -> None:
    assert split_version("magika") == ("magika", 0)
    assert split_version("magika:3") == ("magika", 3)
    assert with_version("magika:3") == ("magika", 3)
    assert without_version("magika") == "magika"


@pytest.mark.parametrize(
    "text", ["magika:", "magika:0", "magika:-1", "magika:x", "magika:1:2", "magika:²", f"m:{1 << 63}"]
)
def test_versions_are_whole_numbers(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="whole number of 1 or more"):
        split_version(text)


def test_a_version_is_wanted_or_not() -> None:
    with pytest.raises(typer.BadParameter, match="name the version, too: magika:VERSION"):
        with_version("magika")
    with pytest.raises(typer.BadParameter, match="write magika"):
        without_version("magika:1")
    with pytest.raises(typer.BadParameter, match="names no model"):
        split_version(":1")
