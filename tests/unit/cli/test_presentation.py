"""Small texts for people."""

from __future__ import annotations

import pytest
import typer

from headrace_cli.documents import plain
from headrace_cli.model_names import split_version, with_version, without_version
from headrace_cli.model_pages import statistics_table
from headrace_cli.presentation import enum_text, printable, shape_text, size_text, time_text
from headrace_cli.runner_pages import backends_text, models_text, runner_line, runner_page
from headrace_cli.terminal import output
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


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, "loading"),
        (mesh_pb2.LoadProgress(fetched_ratio=0.43), "loading: 43% fetched"),
        (mesh_pb2.LoadProgress(fetched_ratio=1), "loading: fetched"),
        (mesh_pb2.LoadProgress(fetched_ratio=1, loaded_ratio=0.07), "loading: 7% in memory"),
    ],
)
def test_models_that_load_tell_how_far_they_are(progress: mesh_pb2.LoadProgress | None, text: str) -> None:
    runner = mesh_pb2.Runner(id="r")
    runner.models.add(model="a", version=1, state=mesh_pb2.MODEL_STATE_LOADING, load_progress=progress)
    assert models_text(runner) == f"a:1 ({text})"


def test_models_of_a_runner_tell_what_waits_and_what_keeps_calls_away() -> None:
    runner = mesh_pb2.Runner(id="r")
    runner.models.add(model="a", version=1, state=mesh_pb2.MODEL_STATE_LOADED, breaker=mesh_pb2.BREAKER_STATE_CLOSED)
    runner.models.add(
        model="b",
        version=1,
        state=mesh_pb2.MODEL_STATE_LOADED,
        breaker=mesh_pb2.BREAKER_STATE_HALF_OPEN,
        in_flight=3,
        queue_depth=2,
    )
    assert models_text(runner) == "a:1, b:1 (3 calls, 2 queued, breaker half-open)"


def described_runner() -> mesh_pb2.Runner:
    runner = mesh_pb2.Runner(
        id="r",
        name="runner-0",
        state=mesh_pb2.RUNNER_STATE_READY,
        device_type="cuda",
        device_name="Abacus 9",
        device_gauges={"utilization_ratio": 0.5},
        backends=["onnxruntime", "doubler"],
    )
    runner.heartbeat_age.FromMilliseconds(250)
    able = mesh_pb2.BackendCapabilities(batching=True, quantization=["int8"], device_types=["cuda", "cpu"])
    runner.backend_info.add(name="onnxruntime", version="1.30.0", healthy=True, capabilities=able)
    runner.backend_info.add(name="doubler", reason="its check does not return")
    runner.backend_info.add(name="absent", reason="the package abacus is not installed")
    return runner


def test_backends_tell_what_they_can_do_or_why_they_do_not_work() -> None:
    assert backends_text(described_runner()).plain.splitlines() == [
        "✓ onnxruntime 1.30.0 (batching, int8)",
        "✗ doubler: its check does not return",
        "- absent: the package abacus is not installed",
    ]
    assert backends_text(mesh_pb2.Runner(backends=["onnxruntime"])).plain == "✓ onnxruntime"


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_runners_fit_the_terminal_and_nothing_is_left_out(columns: int) -> None:
    console = output()
    console.width = columns
    with console.capture() as capture:
        console.print(runner_page([described_runner()], columns=columns))
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= columns for line in lines)
    for said in ("runner-0", "ready", "cuda 50%", "0.2 s", "onnxruntime 1.30.0", "int8", "absent"):
        assert any(said in line for line in lines), said


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
    assert split_version("magika:3") == split_version("magika@3") == ("magika", 3)
    assert with_version("magika:3") == ("magika", 3)
    assert without_version("magika") == "magika"


@pytest.mark.parametrize("text", ["magika:0", "magika:-1", "magika:x", "magika:1+int8", "magika:²", f"m:{1 << 63}"])
def test_versions_are_whole_numbers(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="whole number of 1 or more"):
        split_version(text)


def test_a_version_is_wanted_or_not() -> None:
    with pytest.raises(typer.BadParameter, match="name the version, too: magika:VERSION"):
        with_version("magika")
    with pytest.raises(typer.BadParameter, match="write magika"):
        without_version("magika:1")
    for text in (":1", "magika:", "magika:1:2"):
        with pytest.raises(typer.BadParameter, match="names no model"):
            split_version(text)
