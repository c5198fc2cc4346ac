"""What the SDK's README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from support.generation import provide_smollm2, provide_smollm2_embeddings
from support.mesh import Mesh
from support.real_inputs import REPOSITORY

README = (REPOSITORY / "libs" / "client" / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PRINTED = (
    r"\d+ \d\.\d+(e-\d+)?\n",
    r"1 order-17\n",
    r"100 100\n",
    r"(?s).+\| length Usage\(prompt_tokens=4, cached_prompt_tokens=\d, completion_tokens=8\)\nTrue\n\(2, 576\)\n",
    r"\[(0\.\d+(e-\d+)?(, )?){5}\]\n",
    r"(?s).*magika 1 \[1\]\n.*\[-1, 2048\]\n\[('runner-\d'(, )?)+\]\n",
    r"MODEL_NOT_FOUND \{'model': 'no-such-model'\}\n",
)


def test_every_snippet_of_the_readme_is_tried() -> None:
    assert len(SNIPPETS) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_a_snippet_of_the_readme_does_what_it_says(number: int, mesh: Mesh) -> None:
    if "smollm2" in SNIPPETS[number]:
        provide_smollm2(mesh)
        provide_smollm2_embeddings(mesh)
    environment = {**os.environ, "HEADRACE_ENDPOINT": mesh.grpc, "HEADRACE_API_KEY": mesh.api_key}
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(PRINTED[number], done.stdout), done.stdout
