"""Whoever asks gets the text that the library makes where it is called directly."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from headrace_client import Client
from support.generation import GREEDY, asking, buf_curl_text, decoupled, decoupled_text, provide_smollm2, stub_text
from support.llama_process import running_llama
from support.mesh import Mesh
from support.real_inputs import REPOSITORY
from support.smollm2 import MODEL, PROMPTS, model_file
from support.soak import Measured

TOKENS = 16
AT_ONCE = 8
"""Calls at the same time; company changes no text."""
TRITON_PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
TRITON_SCRIPT = REPOSITORY / "tests" / "clients" / "triton" / "generate.py"


def tritonclient_texts(mesh: Mesh, folder: Path) -> list[str]:
    """What an unchanged tritonclient gets on a decoupled stream."""
    asked, got = folder / "prompts.json", folder / "texts.json"
    asked.write_text(json.dumps([PROMPTS, json.dumps({**GREEDY, "max_tokens": TOKENS})]))
    done = subprocess.run(
        [TRITON_PYTHON, TRITON_SCRIPT, mesh.grpc, mesh.api_key, MODEL, asked, got],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    texts = json.loads(got.read_text())
    assert all(answers > 2 for text, answers in texts if len(text) > TOKENS), texts
    return [text for text, _ in texts]


@pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)
def test_every_client_gets_the_library_s_text(mesh: Mesh, measured: Measured, tmp_path: Path) -> None:
    provide_smollm2(mesh)
    with running_llama(model_file(), slots=8) as llama:
        expected = llama.complete([{"prompt": prompt, "max_tokens": TOKENS, **GREEDY} for prompt in PROMPTS])
    with grpc.insecure_channel(mesh.grpc) as channel, Client(mesh.grpc, api_key=mesh.api_key) as client:

        def by_sdk(prompt: str) -> str:
            return "".join(delta.text for delta in client.generate(MODEL, prompt, max_tokens=TOKENS, **GREEDY))

        ways: dict[str, Callable[[str], str]] = {
            "SDK": by_sdk,
            "`buf curl`": lambda prompt: buf_curl_text(mesh, prompt, max_tokens=TOKENS),
            "raw stub": lambda prompt: stub_text(mesh, channel, asking(prompt, max_tokens=TOKENS)),
            "raw decoupled stream": lambda prompt: decoupled_text(
                mesh, channel, decoupled(prompt.encode(), max_tokens=TOKENS)
            ),
        }
        with ThreadPoolExecutor(AT_ONCE) as pool:
            got = {way: list(pool.map(ask, PROMPTS)) for way, ask in ways.items()}
    got["tritonclient's decoupled stream"] = tritonclient_texts(mesh, tmp_path)
    same = {way: sum(a == b for a, b in zip(texts, expected, strict=True)) for way, texts in got.items()}
    measured(
        f"SmolLM2 continues {len(PROMPTS)} prompts, {TOKENS} tokens each, temperature 0",
        "the text that xllamacpp makes where it is called directly",
        ", ".join(f"{way}: {number} of {len(PROMPTS)}" for way, number in same.items()),
    )
    assert len(set(expected)) == len(PROMPTS)
    for way, texts in got.items():
        assert texts == expected, way
