"""A page's `fetch` reads what a model says as it comes, from another origin, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.browser import Pages, chromium, serving_pages, visiting
from support.folders import open_folder
from support.generation import asking, provide_smollm2, stub_text
from support.mesh import Mesh, running_mesh
from support.smollm2 import MODEL, PROMPTS
from support.soak import Measured

TOKENS = 48
PAGE = """<!doctype html><meta charset="utf-8"><title>SSE</title><script>
const told = {pieces: [], times: [], error: null, requestId: null}
async function read() {
  const answer = await fetch(ASKED.url, {
    method: "POST",
    headers: {"content-type": "application/json", "authorization": "Bearer " + ASKED.key},
    body: JSON.stringify(ASKED.body),
  })
  told.requestId = answer.headers.get("x-request-id")
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  for (;;) {
    const {done, value} = await reader.read()
    if (done) return
    told.pieces.push(value)
    told.times.push(performance.now())
  }
}
read().catch(error => { told.error = String(error) })
      .finally(() => fetch("/told", {method: "POST", body: JSON.stringify(told)}))
</script>"""


def visit(program: str, pages: Pages, host: str, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What the page, opened by that name of this machine, tells of its call."""
    pages.content = PAGE.replace("<script>", f"<script>\nconst ASKED = {json.dumps(asked)}", 1)
    with visiting(program, f"http://{host}:{pages.port}/", folder):
        return pages.posted.get(timeout=90)


def test_a_page_reads_a_stream_of_another_origin(measured: Measured, tmp_path: Path) -> None:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put one into the PATH, or its path into HEADRACE_CHROMIUM")
    with serving_pages() as pages, open_folder() as folder:
        origins = {"HEADRACE_HTTP_CORS_ORIGINS": f"http://127.0.0.1:{pages.port}"}
        with running_mesh(folder, "--runners", "1", http=True, environment=origins) as mesh:
            provide_smollm2(mesh)
            expected = _expected(mesh)
            asked = {
                "url": f"{mesh.http}/openai/v1/completions",
                "key": mesh.api_key,
                "body": {"model": MODEL, "prompt": PROMPTS[0], "max_tokens": TOKENS, "temperature": 0, "stream": True},
            }
            told = visit(program, pages, "127.0.0.1", tmp_path / "allowed", asked)
            stranger = visit(program, pages, "localhost", tmp_path / "stranger", asked)
    assert told["error"] is None and told["requestId"], told
    *events, done, end = "".join(told["pieces"]).split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert (done, end) == ("data: [DONE]", "")
    assert len(told["pieces"]) >= TOKENS // 4 and told["times"] == sorted(set(told["times"])), "as it comes"
    assert stranger["error"] and not stranger["pieces"], "an origin that is not listed reads nothing"
    measured(
        "a page's fetch reads a stream of events in headless Chromium, from another origin",
        "the text that gRPC's clients get, piece by piece; nothing for origins that are not listed",
        f"{TOKENS} tokens in {len(told['pieces'])} pieces; others: `{stranger['error']}`",
    )


def _expected(mesh: Mesh) -> str:
    with grpc.insecure_channel(mesh.grpc) as channel:
        return stub_text(mesh, channel, asking(PROMPTS[0], max_tokens=TOKENS))
