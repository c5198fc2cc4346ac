"""The client commands against a whole mesh: answers for people and programs, exit statuses, bad input."""

from __future__ import annotations

import csv
import json
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_client import Client
from support import onnx_models
from support.generation import EMBEDDING_MODEL, provide_smollm2, provide_smollm2_embeddings
from support.headrace_command import Headrace
from support.mesh import HEADRACE, Mesh
from support.parties import until
from support.smollm2 import MODEL

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True, kw_only=True)
class World:
    """An operator, the admin of a tenant that is these tests' own, and callers of the community tenant."""

    operator: Headrace
    admin: Headrace
    community: Headrace
    tenant: str


def answers(caller: Headrace) -> bool:
    """Whether the gateway has heard of the caller's key."""
    try:
        caller("models", "list")
    except AssertionError:
        return False
    return True


@pytest.fixture(scope="module")
def world(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> World:
    community = Headrace.of(mesh)
    operator = community.with_key(f"@{mesh.state_dir / 'secrets' / 'admin.key'}")
    tenant = f"cli-{secrets.token_hex(4)}"
    made = operator("tenants", "create", tenant, "--display-name", "of the tests", "--json").document
    assert (made["id"], made["status"]) == (tenant, "TENANT_STATUS_ACTIVE")
    key = operator("keys", "create", "--tenant", tenant, "--role", "admin", "--json").document["key"]
    admin = community.with_key(key)
    until(lambda: answers(admin))
    folder = tmp_path_factory.mktemp("models")
    for name, content in (
        ("same", onnx_models.identity()),
        ("words", onnx_models.identity("BYTES", ("batch",))),
        ("whole", onnx_models.identity("INT8", ("batch",))),
    ):
        (folder / f"{name}.onnx").write_bytes(content)
        admin("models", "push", str(folder / f"{name}.onnx"), "--name", name)
    return World(operator=operator, admin=admin, community=community, tenant=tenant)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.identity())
    return path


def test_a_version_lives_from_push_to_archive(world: World, model_file: Path, tmp_path: Path) -> None:
    admin = world.admin
    assert "✓ life:1" in admin("models", "push", str(model_file), "--name", "life").stdout
    done = admin("models", "push", str(model_file), "--name", "life", "--json")
    assert done.stderr == ""
    pushed = done.document
    assert (pushed["model"], pushed["version"], pushed["state"]) == ("life", "1", "VERSION_STATE_READY")
    manifest = tmp_path / "model.yaml"
    manifest.write_text("description: the same again\n")
    again = ("models", "push", str(model_file), "--name", "life", "--version", "7", "--manifest", str(manifest))
    admin(*again)
    assert "the same again" in admin("models", "show", "life:7").stdout
    shown = admin("models", "show", "life:1").stdout
    assert "[*, 4]" in shown and "versions: 7 (ready), 1 (ready)" in shown
    document = admin("models", "show", "life:1", "--json").document
    assert (document["version"]["version"], [one["version"] for one in document["versions"]]) == ("1", ["7", "1"])
    (listed,) = [model for model in admin("models", "list", "--json").document if model["name"] == "life"]
    assert listed["latest_version"] == "7"

    loaded = admin("models", "load", "life", "--json").document
    assert (loaded["model"], loaded["loaded"]) == ("life", True)
    assert "life:7" in admin("runners", "list").stdout
    assert admin("models", "unload", "life", "--json").document == {"model": "life", "loaded": False}
    assert "✓ life is loaded" in admin("models", "load", "life").stdout
    assert "✓ life is out of memory" in admin("models", "unload", "life").stdout

    fetched = admin("models", "download", "life:1", "--to", str(tmp_path / "copy.onnx"), "--json").document
    assert fetched["size_bytes"] == model_file.stat().st_size
    assert (tmp_path / "copy.onnx").read_bytes() == model_file.read_bytes()
    assert "✓ life:1 is archived" in admin("models", "archive", "life:1").stdout
    assert admin("models", "archive", "life:7", "--json").document["state"] == "VERSION_STATE_ARCHIVED"
    assert admin("infer", "life", "-i", "[[1, 2, 3, 4]]", "--json", status=1).error["context"]


def test_inputs_come_from_npy_json_literals_and_standard_input(world: World, tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 4]], np.float32)
    np.save(tmp_path / "rows.npy", rows.astype(">f8"))
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    answered = {
        source: world.admin("infer", "same", "-i", source, "--json", stdin=stdin).document["outputs"]
        for source, stdin in (
            (f"x=@{tmp_path / 'rows.npy'}", b""),
            (f"@{tmp_path / 'rows.json'}", b""),
            ("[[1, 2, 3, 4]]", b""),
            ("x=-", b"[[1.0, 2.0, 3.0, 4.0]]"),
            ("-", (tmp_path / "rows.npy").read_bytes()),
        )
    }
    wanted = [{"name": "z", "datatype": "FP32", "shape": [1, 4], "data": rows.tolist()}]
    assert set(map(json.dumps, answered.values())) == {json.dumps(wanted)}


def test_an_answer_says_what_ran_where(world: World) -> None:
    asked = ("infer", "same:1", "-i", "[[NaN, 1, 2, Infinity]]", "-o", "z", "-p", "mark=7", "--priority", "9")
    answer = world.admin(*asked, "--request-id", "order-17", "--timeout", "20", "--json").document
    assert (answer["model"], answer["version"], answer["id"]) == ("same", "1", "order-17")
    assert answer["outputs"][0]["data"] == [["NaN", 1.0, 2.0, "Infinity"]]
    assert answer["execution"]["backend"] == "onnxruntime" and answer["execution"]["compute_s"] > 0
    page = world.admin(*asked).stdout
    assert "nan, 1, 2, inf" in page and "same:1 in" in page and "onnxruntime" in page


def test_texts_come_back_and_bytes_that_are_none_as_base64(world: World, tmp_path: Path) -> None:
    texts = world.admin("infer", "words", "-i", '["ä", "", "a\\u0000b"]', "--json").document["outputs"][0]
    assert texts["data"] == ["ä", "", "a\0b"] and "encoding" not in texts
    np.save(tmp_path / "texts.npy", np.array([b"ab", b"c"]))
    (fixed,) = world.admin("infer", "words", "-i", f"@{tmp_path / 'texts.npy'}", "--json").document["outputs"]
    assert fixed["data"] == ["ab", "c"]


def test_an_empty_tensor_has_its_shape(world: World) -> None:
    (empty,) = world.admin("infer", "whole", "-i", "[]", "--json").document["outputs"]
    assert (empty["datatype"], empty["shape"], empty["data"]) == ("INT8", [0], [])


def test_samples_classify_and_are_counted(world: World) -> None:
    page = world.community("infer", "magika", "-i", json.dumps([[256] * 2048])).stdout
    assert "row 0:" in page
    (counted,) = world.community("models", "stats", "magika", "--json").document
    assert counted["name"] == "magika" and int(counted["inference_stats"]["success"]["count"]) >= 1
    assert "magika:1" in world.community("models", "stats").stdout


def bad_files(folder: Path) -> dict[str, str]:
    """Files that are no tensors, by name."""
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "complex.npy", np.ones((1, 4), np.complex64))
    np.save(folder / "whole.npy", np.ones((1, 4), np.float32))
    (folder / "cut.npy").write_bytes((folder / "whole.npy").read_bytes()[:-3])
    (folder / "text").write_text("hello")
    return {path.stem: f"@{path}" for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("source", "reason", "said"),
    [
        ("@/nowhere/x.npy", "FIELD_INVALID", "can't be read"),
        ("objects", "FIELD_INVALID", "not an NPY file of numbers"),
        ("cut", "FIELD_INVALID", "not an NPY file of numbers"),
        ("text", "FIELD_INVALID", "neither JSON nor an NPY"),
        ("complex", "TENSOR_DATATYPE_MISMATCH", "needs numbers"),
        ("[" * 100_000, "FIELD_INVALID", "neither JSON nor an NPY"),
        ('["a"]', "TENSOR_DATATYPE_MISMATCH", "needs numbers"),
        ("[[1, 2], [3]]", "TENSOR_SHAPE_MISMATCH", "different lengths"),
        ("[[1, 2, 3]]", "TENSOR_SHAPE_MISMATCH", "x"),
        ("[]", "TENSOR_SHAPE_MISMATCH", "x"),
        ("typo=[[1]]", "FIELD_INVALID", "no input 'typo', only x"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_values_that_are_no_tensor_of_the_model_are_refused(
    source: str, reason: str, said: str, world: World, tmp_path: Path
) -> None:
    error = world.admin("infer", "same", "-i", bad_files(tmp_path).get(source, source), "--json", status=1).error
    assert error["reason"] == reason
    assert said in error["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infer", "whole", "-i", "[1.5]"), "fractions don't fit INT8"),
        (("infer", "whole", "-i", "[300]"), "INT8 holds -128 to 127 only"),
        (("infer", "words", "-i", "[1]"), "BYTES"),
        (("infer", "same", "-i", "x=[[1,2,3,4]]", "-i", "x=[[1,2,3,4]]"), "given twice"),
        (("infer", "same", "-i", "-", "-i", "x=-"), "one input only"),
        (("infer", "same", "-i", "[[1,2,3,4]]", "-o", "nothing"), "nothing"),
        (("infer", "same", "-i", "[[1,2,3,4]]", "-p", "7"), "NAME=VALUE"),
        (("infer", "same", "-i", "[[1,2,3,4]]", "--request-id", "ä"), "letters, digits"),
        (("models", "archive", "same:9"), "same"),
        (("models", "download", "same", "--file", "nothing"), "names no file"),
        (("keys", "revoke", "nothing"), "not the key itself"),
        (("keys", "revoke", "00000000-0000-4000-8000-000000000000"), "`headrace keys list`"),
        (("tenants", "list"), "role"),
        (("runners", "drain", "runner-0"), "role"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_what_is_refused_is_told_in_words_with_a_code(arguments: tuple[str, ...], said: str, world: World) -> None:
    told = world.admin(*arguments, status=1).stderr
    assert said in told
    assert told.startswith("✗ ") and "]" in told.splitlines()[0]


def test_failures_say_what_to_do_next(world: World, tmp_path: Path) -> None:
    community = world.community
    assert "`headrace models list`" in community("infer", "nothing", "-i", "[1]", status=1).stderr
    assert "--api-key" in community("models", "list", status=1, HEADRACE_API_KEY="hr_wrong").stderr
    assert "--api-key" in community("models", "list", "--api-key", "", status=1).stderr
    unreachable = community("models", "list", status=3, HEADRACE_ENDPOINT="127.0.0.1:9").stderr
    assert "no mesh answers at 127.0.0.1:9" in unreachable
    assert "`headrace up`" in unreachable and "--endpoint" in unreachable
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model" * 100)
    assert "its own framework" in community("models", "push", str(broken), "--name", "broken", status=1).stderr


def test_failures_are_documents_for_programs(world: World) -> None:
    error = world.community("models", "show", "nothing", "--json", status=1).error
    assert (error["code"], error["reason"], error["retryable"]) == ("MODEL_001", "MODEL_NOT_FOUND", False)
    assert error["remedy"] and error["request_id"]
    gone = world.community("models", "list", "--json", status=3, HEADRACE_ENDPOINT="127.0.0.1:9").error
    assert (gone["code"], gone["retryable"], gone["context"]) == ("UNREACHABLE", True, {"endpoint": "127.0.0.1:9"})


def test_another_tenants_model_looks_like_one_that_is_not_there(world: World) -> None:
    def told(model: str) -> dict[str, Any]:
        error = world.community("infer", model, "-i", "[1]", "--json", status=1).error
        return {name: json.dumps(value).replace(model, "?") for name, value in error.items() if name != "request_id"}

    assert told("same") == told("none")
    assert "same" not in world.community("models", "list").stdout


def test_an_operator_sets_limits_and_a_tenant_watches_them(world: World) -> None:
    operator, tenant = world.operator, world.tenant
    assert "3 limits" in operator("quota", "set", tenant, "requests=9000/day", "tokens=70/2s", "concurrency=90").stdout
    shown = world.admin("quota", "show").stdout
    assert "9,000" in shown and "at once" in shown and "own" in shown
    assert len(world.admin("quota", "show", "--json").document["own_limits"]) == 3
    used = world.admin("quota", "usage").stdout
    assert "requests/day" in used and "tokens/2s" in used and "concurrency" in used and "in " in used
    assert {use["limit"]["window"] for use in operator("quota", "usage", tenant, "--json").document} == {
        "WINDOW_DAY",
        "WINDOW_RATE",
        "WINDOW_MOMENT",
    }
    lines = world.admin("quota", "top", "--looks", "2", "--interval", "0.2").stdout.splitlines()
    assert len(lines) == 6 and sum(line.startswith("requests/day used=") for line in lines) == 2
    looked = world.admin("quota", "top", "--looks", "1", "--json").stdout.splitlines()
    assert [json.loads(line)["own"] for line in looked] == [True] * 3
    operator("quota", "top", "--all", "--looks", "1")
    assert "1 counters" in operator("quota", "reset", tenant, "--window", "day").stdout
    plan = f"{tenant}-plan"
    assert "9,000" in operator("quota", "plans", "set", plan, "requests=9000/day").stdout
    assert plan in operator("quota", "plans", "list").stdout
    assert operator("quota", "plans", "show", plan, "--json").document["limits"][0]["amount"] == "9000"
    assert "is gone" in operator("quota", "plans", "delete", plan).stdout
    assert "was not found" in operator("quota", "plans", "delete", plan, status=1).stderr
    assert "role" in world.admin("quota", "set", tenant, "--clear", status=1).stderr
    assert "0 limits" in operator("quota", "set", tenant, "--clear").stdout
    assert "no limits" in world.admin("quota", "usage").stdout


def test_calls_are_listed_summed_up_and_exported(world: World, tmp_path: Path) -> None:
    admin, operator, tenant = world.admin, world.operator, world.tenant
    request_id = f"ledger-{secrets.token_hex(4)}"
    admin("infer", "same", "-i", "[[1, 2, 3, 4]]", "--request-id", request_id)

    def found() -> Any:
        return admin("usage", "list", "--request-id", request_id, "--json").document

    until(lambda: bool(found()))
    (row,) = found()
    assert (row["tenant_id"], row["model"], row["status"]) == (tenant, "same", "REQUEST_STATUS_OK")
    assert request_id in admin("usage", "list", "--model", "same", "--status", "ok").stdout
    assert "no calls" in admin("usage", "list", "--model", "nothing").stdout
    until(lambda: bool(operator("usage", "summary", tenant, "--model", "same", "--json").document))
    assert "same:1" in admin("usage", "summary", "--by", "hour", "--since", "2h").stdout
    file = tmp_path / "ledger.csv"
    exported = operator("usage", "export", str(file), "--tenant", tenant, "--since", "1d", "--json").document
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert exported == {"path": str(file), "format": "csv", "rows": len(rows)}
    (same,) = [row for row in rows if row["request_id"] == request_id]
    assert (same["tenant_id"], same["model"], same["status"]) == (tenant, "same", "ok")
    assert "connected" in operator("runners", "history").stdout
    assert {event["event"] for event in operator("runners", "history", "runner-0", "--json").document} >= {"connected"}
    assert "nothing is known of a runner 'nobody'" in operator("runners", "history", "nobody").stdout
    assert "role" in admin("runners", "history", status=1).stderr


def test_the_audit_log_is_listed_and_verified(world: World) -> None:
    admin, operator, tenant = world.admin, world.operator, world.tenant
    made = admin("keys", "create", "--role", "viewer", "--json").document
    key_id = made["api_key"]["id"]
    admin("keys", "revoke", key_id)
    until(lambda: any(entry["resource"] == key_id for entry in admin("audit", "list", "--json").document))
    listed = operator("audit", "list", tenant, "--limit", "200").stdout
    assert "RevokeApiKey" in listed and "UploadVersion" in listed and made["key"] not in listed
    verified = admin("audit", "verify", "--json").document
    assert verified["tenant"] == tenant and verified["entries"] >= 2
    known = f"{verified['entries']}:{verified['sha256']}"
    assert "are whole" in operator("audit", "verify", tenant, "--known", known).stdout
    another = admin("audit", "verify", "--known", f"{verified['entries']}:{'0' * 64}", status=1)
    assert f"entry {verified['entries']} is not the one that is known" in another.stderr
    cut_off = admin("audit", "verify", "--known", f"999999:{'0' * 64}", "--json", status=1).error
    assert (cut_off["reason"], "is missing" in cut_off["message"]) == ("AUDIT_BROKEN", True)
    viewer = world.community.with_key(made["key"])
    until(lambda: not answers(viewer))
    assert "not found" in admin("audit", "list", "community", status=1).stderr
    assert "role" in world.community("audit", "list", status=1).stderr


def test_an_operator_makes_tenants_and_keys_and_ends_them(world: World) -> None:
    operator, tenant = world.operator, world.tenant
    assert tenant in operator("tenants", "list").stdout
    assert tenant in {one["id"] for one in operator("tenants", "list", "--json").document}
    assert operator("tenants", "show", tenant, "--json").document["id"] == tenant
    assert tenant in world.admin("tenants", "show").stdout
    made = operator("keys", "create", "--tenant", tenant, "--role", "viewer", "--expires-in-days", "1", "--json")
    key, key_id = made.document["key"], made.document["api_key"]["id"]
    viewer = world.community.with_key(key)
    until(lambda: answers(viewer))
    listed = operator("keys", "list", "--tenant", tenant)
    assert key_id in listed.stdout and key not in listed.stdout
    assert {row["id"] for row in world.admin("keys", "list", "--json").document} >= {key_id}
    assert operator("tenants", "suspend", tenant, "--json").document["status"] == "TENANT_STATUS_SUSPENDED"
    until(lambda: not answers(viewer))
    assert "is active" in operator("tenants", "resume", tenant).stdout
    until(lambda: answers(viewer))
    assert "is revoked" in world.admin("keys", "revoke", key_id).stdout
    until(lambda: not answers(viewer))
    assert "revoked" in world.admin("keys", "list").stdout
    until(lambda: answers(world.admin))


def test_status_tells_readiness_by_its_exit_status(world: World, mesh: Mesh) -> None:
    found = world.admin("status", "--json").document
    assert (found["endpoint"], found["live"], found["ready"]) == (mesh.grpc, True, True)
    assert found["server"]["version"] and found["tenant"]["id"] == world.tenant
    assert found["runners"]["ready"] >= 1
    world.admin("models", "load", "same")
    assert {"model": "same", "version": 1} in [
        {"model": row["model"], "version": row["version"]} for row in world.admin("status", "--json").document["models"]
    ]
    assert world.tenant in world.admin("status").stdout
    without = world.admin("status", "--api-key", "", "--json").document
    assert without["ready"] and without["tenant"] is None
    world.admin("status", status=1, HEADRACE_API_KEY="hr_wrong")
    world.admin("status", "--endpoint", "127.0.0.1:9", "--timeout", "2", status=3)


def test_the_mesh_and_key_may_come_from_a_profile(world: World, mesh: Mesh, tmp_path: Path) -> None:
    key = world.admin.environment["HEADRACE_API_KEY"]
    (tmp_path / "key").write_text(key + "\n")
    config = tmp_path / "config.toml"
    config.write_text(f'[profiles.here]\nendpoint = "{mesh.grpc}"\napi_key = "@{tmp_path / "key"}"\n')
    bare = Headrace(environment={"HEADRACE_CONFIG": str(config)})
    assert bare("status", "--profile", "here", "--json").document["tenant"]["id"] == world.tenant
    assert bare("status", "--json", HEADRACE_PROFILE="here").document["tenant"]["id"] == world.tenant
    assert "its profiles: here" in bare("status", "--profile", "there", status=1).stderr
    # A flag wins over the profile.
    bare("status", "--profile", "here", "--endpoint", "127.0.0.1:9", "--timeout", "2", status=3)


def test_the_mesh_on_the_state_directory_is_found_without_an_endpoint(mesh: Mesh) -> None:
    done = Headrace()("models", "list", HEADRACE_STATE_DIR=str(mesh.state_dir))
    assert "magika" in done.stdout


@contextmanager
def watching(caller: Headrace) -> Iterator[tuple[subprocess.Popen[str], Iterator[Any]]]:
    """`headrace runners watch --json` as a process, and the documents that it prints."""
    with subprocess.Popen(
        [str(HEADRACE), "runners", "watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=caller.variables(),
    ) as watch:
        assert watch.stdout is not None
        try:
            yield watch, map(json.loads, watch.stdout)
        finally:
            watch.kill()


def test_a_drained_runner_is_waited_for_and_the_watcher_sees_it_go(world: World) -> None:
    def ready() -> dict[str, str]:
        listed = world.operator("runners", "list", "--json").document["runners"]
        return {one["name"]: one["id"] for one in listed if one["state"] == "RUNNER_STATE_READY"}

    until(lambda: "runner-1" in ready())
    before = ready()["runner-1"]
    with watching(world.operator) as (watch, lines):
        assert next(lines)["runner"]["state"] == "RUNNER_STATE_READY"
        gone = world.operator("runners", "drain", "runner-1", "--wait", "--json").document
        assert (gone["id"], gone["state"]) == (before, "RUNNER_STATE_GONE")
        seen = next(change for change in lines if change["runner"]["state"] == "RUNNER_STATE_GONE")
        assert seen["runner"]["id"] == before
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 0
        assert watch.stderr is not None and watch.stderr.read() == ""
    assert "RUNNER_004" in world.operator("runners", "drain", before, status=1).stderr
    until(lambda: ready().get("runner-1", before) != before, within_s=60)
    assert "runner-1 ready" in world.operator("runners", "watch", "--timeout", "3").stdout


@pytest.mark.parametrize(("arguments", "status"), [(("models", "list"), 130), (("runners", "watch"), 0)])
def test_a_command_that_is_interrupted_before_any_answer_says_nothing(arguments: tuple[str, ...], status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = subprocess.Popen(
            [str(HEADRACE), *arguments, "--endpoint", f"127.0.0.1:{silent.getsockname()[1]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=Headrace().variables(),
        )
        connection, _ = silent.accept()
        with connection:
            command.send_signal(signal.SIGINT)
            out, problems = command.communicate(timeout=60)
    assert (command.returncode, out, problems) == (status, b"", b"")


def test_a_pipe_gets_plain_text_and_its_end_is_no_failure(world: World) -> None:
    piped = world.community.process("models", "list").stdout
    assert "magika" in piped and "\x1b" not in piped
    command = f"{HEADRACE} models show magika | head -c 1"
    shown = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=world.community.variables(),
        check=False,
        timeout=200,
    )
    assert (shown.stdout, shown.stderr) == ("m", "")
    failed = world.community.process("models", "show", "nothing", status=1, FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[3" not in failed.stderr


def test_a_language_model_goes_on_talks_and_makes_vectors(world: World, mesh: Mesh) -> None:
    provide_smollm2(mesh)
    provide_smollm2_embeddings(mesh)
    command, greedy = world.community, ("--max-tokens", "12", "--temperature", "0")
    with Client(mesh.grpc, api_key=mesh.api_key, timeout_s=100) as client:
        text = client.generate(MODEL, "Once upon a time", max_tokens=12, temperature=0).read()
        (vector,) = client.embed(EMBEDDING_MODEL, ["a cat"])
    said = command("generate", MODEL, "Once upon a time", *greedy, "--stats")
    assert said.stdout == text + "\n"
    assert "12 tokens; " in said.stderr and " tokens/s; first after " in said.stderr
    document = command("generate", f"{MODEL}:1", "Hi", "--chat", *greedy, "--json", "--top-logprobs", "2").document
    (completion,) = document["completions"]
    assert len(completion["token_ids"]) == len(completion["logprobs"]) == document["usage"]["completion_tokens"] <= 12
    assert [len(token["top"]) for token in completion["logprobs"]] == [2] * len(completion["logprobs"])

    talk = command("chat", MODEL, *greedy, "--json", stdin="My name is Bob.\nWhat is my name?\n").stdout.splitlines()
    first, second = map(json.loads, talk)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]

    embedded = command("embed", EMBEDDING_MODEL, "a cat", "--json").document
    assert embedded["dimensions"] == 576
    np.testing.assert_allclose(embedded["embeddings"][0]["embedding"], vector, atol=1e-6)

    assert "sampling.top_p is 0.0" in command("generate", MODEL, "Hi", "--top-p", "0", status=1).stderr
    for arguments in (("generate", "magika", "Hi"), ("generate", EMBEDDING_MODEL, "Hi"), ("embed", MODEL, "Hi")):
        assert command(*arguments, "--json", status=1).error["reason"] == "MODEL_TASK_MISMATCH"
    shown = command("models", "show", MODEL).stdout
    assert "generate" in shown and " slots of " in shown
