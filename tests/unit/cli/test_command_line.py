"""The command line itself: what can be written, before anything is called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from headrace_cli.app import app
from support.headrace_command import Headrace

HEADRACE = Headrace()


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as the words that name it."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))


COMMANDS = [
    *(f"audit {name}" for name in ("list", "verify")),
    *(f"certs {name}" for name in ("init", "issue", "renew", "show")),
    "chat",
    "embed",
    "generate",
    "infer",
    *(f"keys {name}" for name in ("create", "list", "revoke", "rotate")),
    *(f"models {name}" for name in ("archive", "download", "list", "load", "push", "show", "stats", "unload")),
    *(f"quota plans {name}" for name in ("delete", "list", "set", "show")),
    *(f"quota {name}" for name in ("reset", "set", "show", "top", "usage")),
    "restart",
    *(f"runners {name}" for name in ("drain", "history", "list")),
    *(f"runners token {name}" for name in ("create", "list", "revoke")),
    "runners watch",
    "status",
    *(f"tenants {name}" for name in ("create", "list", "resume", "show", "suspend", "update")),
    "up",
    *(f"usage {name}" for name in ("export", "list", "summary")),
    "version",
]


GROUPS = ["", "audit", "certs", "keys", "models", "quota", "quota plans", "runners", "runners token", "tenants"]
GROUPS += ["usage"]
LOCAL = {"restart", "up", "version", *(path for path in COMMANDS if path.startswith(("certs ", "runners token ")))}
"""Commands that call no mesh."""


def test_these_are_the_commands() -> None:
    every = sorted(" ".join(path) for path in paths(typer.main.get_command(app)))
    assert [path for path in every if path not in GROUPS] == COMMANDS


@pytest.mark.parametrize("path", [*COMMANDS, *GROUPS])
def test_each_has_help(path: str) -> None:
    page = HEADRACE(*path.split(), "--help").stdout
    assert f"Usage: {' '.join(['headrace', *path.split()])}" in page
    if path not in {*LOCAL, *GROUPS}:
        assert all(option in page for option in ("--endpoint", "--api-key", "--profile", "--timeout", "--json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "frobnicate"], "No such command"),
        (["models", "lst"], "Did you mean 'list'"),
        (["models", "list", "--frobnicate"], "No such option"),
        (["models", "list", "--timeout", "nan"], "must be a number above 0"),
        (["models", "list", "--timeout", "inf"], "must be a number above 0"),
        (["models", "list", "--timeout", "0"], "must be a number above 0"),
        (["models", "list", "--timeout", "soon"], "--timeout"),
        (["models", "push", "/nowhere.onnx", "--name", "x"], "/nowhere.onnx"),
        (["models", "push", __file__], "--name"),
        (["models", "archive", "m"], "name the version, too"),
        (["models", "load", "m:1"], "write m"),
        (["models", "download", "m", "--to", "/nowhere/x"], "/nowhere does not exist"),
        (["infer", "m:x", "-i", "[1]"], "whole number of 1 or more"),
        (["infer", "m"], "--input"),
        (["infer", "m", "-i", "[1]", "--priority", "10"], "--priority"),
        (["generate", "m:0", "Hi"], "whole number of 1 or more"),
        (["generate", "m", "Hi", "--file", __file__], "either PROMPT or --file"),
        (["generate", "m", "Hi", "--temperature", "warm"], "--temperature"),
        (["generate", "m", "Hi", "--logit-bias", "5"], "TOKEN=NUMBER"),
        (["generate", "m", "Hi", "--json-schema", "@/nowhere.json"], "/nowhere.json can't be read"),
        (["quota", "set", "acme"], "--clear"),
        (["quota", "set", "acme", "requests=5/day", "--clear"], "--clear"),
        (["quota", "set", "acme", "requests=5/week"], "the window must be hour, day or month"),
        (["quota", "plans", "set", "gold", "seats=5/day"], "the resource must be one of"),
        (["quota", "top", "acme", "--all"], "a tenant or --all"),
        (["quota", "top", "--interval", "0"], "--interval"),
        (["usage", "list", "--since", "yesterday"], "write it as 2026-01-31"),
        (["usage", "list", "--status", "lost"], "--status"),
        (["usage", "export"], "FILE"),
        (["usage", "export", "/nowhere/ledger.csv"], "the folder /nowhere does not exist"),
        (["usage", "export", "ledger.csv", "--format", "xls"], "--format"),
        (["audit", "verify", "--known", "17"], "NUMBER:SHA256"),
        (["chat"], "MODEL"),
        (["embed", "m", "Hi", "--file", __file__], "either TEXT or --file"),
        (["embed", "m", " "], "no text to embed"),
        (["keys", "create", "--role", "king"], "--role"),
        (["keys", "create", "--expires-in-days", "nan"], "--expires-in-days"),
        (["keys", "create", "--expires-in-days", "1e9"], "--expires-in-days"),
        (["up", "--env", "moon"], "must be dev, test or prod"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_wrong_usage_ends_with_2_in_words_and_as_a_document(arguments: list[str], said: str) -> None:
    assert said in HEADRACE(*arguments, status=2).stderr
    if arguments[0] != "up":
        error = HEADRACE(*arguments, "--json", status=2).error
        assert error["reason"] == "USAGE"
        assert said in error["message"]


def test_the_version_is_told() -> None:
    number = HEADRACE("version").stdout.strip()
    assert HEADRACE("version", "--json").document == {"version": number}
    assert number[0].isdigit()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_their_completion(shell: str) -> None:
    script = HEADRACE(_HEADRACE_COMPLETE=f"source_{shell}").stdout
    assert f"complete_{shell}" in script and "headrace" in script


def test_completion_knows_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        position = str(words.count(" "))
        done = HEADRACE(_HEADRACE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=position)
        return done.stdout.split()

    assert "push" in completed("headrace models ")
    assert completed("headrace models un") == ["unload"]
    assert "--endpoint" in completed("headrace models list --")
    assert completed("headrace keys create --role mod") == ["model_admin"]


def test_help_and_completion_load_nothing_that_takes_long() -> None:
    heavy = {"grpc", "numpy", "google.protobuf", "headrace_client", "headrace_common", "asyncio", "importlib.metadata"}
    code = f"import sys, headrace_cli.app; print(*sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


def test_commands_for_a_mesh_work_where_no_service_is_installed(tmp_path: Path) -> None:
    code = """
import sys
sys.modules |= dict.fromkeys(["headrace", "headrace_common", "headrace_gateway", "inference", "psycopg"])
from headrace_cli.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, "infer", "m", "-i", "[1]", "--endpoint", "127.0.0.1:9", "--json"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=HEADRACE.variables(), cwd=tmp_path)
    assert (ended.returncode, "no mesh answers" in ended.stderr) == (3, True), ended.stderr
    command[3:] = ["up"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=HEADRACE.variables(), cwd=tmp_path)
    assert (ended.returncode, "headrace[mesh]" in ended.stderr) == (2, True), ended.stderr


def test_streams_that_are_closed_or_full_are_no_reason_for_a_traceback() -> None:
    def ended(redirection: str) -> tuple[int, str]:
        command = f"{sys.executable} -m headrace_cli version --json {redirection}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert ended(">&-") == (0, "")
    assert ended("2>&-") == (0, "")
    status, told = ended(">/dev/full")
    assert status == 1
    assert json.loads(told)["error"]["reason"] == "LOCAL_FILE"


def test_ctrl_c_between_making_a_call_and_handing_it_over_says_nothing() -> None:
    code = """
import signal, sys, typer
import headrace_cli.app, headrace_cli.__main__ as command
async def call(): ...
def interrupted():
    made = call()
    signal.raise_signal(signal.SIGINT)
headrace_cli.app.app = app = typer.Typer()
app.command()(interrupted)
sys.argv = ["headrace"]
command.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (130, "", "")


def test_grpc_keeps_its_own_log_to_itself(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    arguments = ("models", "list", "--json", "--endpoint", "127.0.0.1:9", "--ca-file", str(tmp_path / "ca.pem"))
    assert HEADRACE.process(*arguments, status=3).error["reason"] == "UNREACHABLE"
