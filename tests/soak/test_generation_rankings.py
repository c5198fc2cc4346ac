"""The example's search over real text ranks as the library alone does."""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.generation import provide_smollm2_embeddings
from support.llama_process import running_llama
from support.mesh import Mesh
from support.smollm2 import model_file
from support.soak import Measured

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "semantic_search.py"
FOLDER = ROOT / "docs"
PASSAGES = 60
QUESTIONS = (
    "How long may a call take before it times out?",
    "What happens to a sequence when its runner is lost?",
    "Which key do I send, and in which header?",
)
SIMILARITY_ERROR_MAX = 1e-4
FOUND = re.compile(r"^(-?\d\.\d{4})  (\S+):(\d+)  ", re.MULTILINE)

pytestmark = [pytest.mark.timeout(400), pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)]


def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("semantic_search", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_example_ranks_as_the_library_alone(mesh: Mesh, measured: Measured) -> None:
    provide_smollm2_embeddings(mesh)
    passages = [passage for path in sorted(FOLDER.glob("*.md")) for passage in example().passages_of(path)]
    passages = passages[:: math.ceil(len(passages) / PASSAGES)]
    with running_llama(model_file(), slots=1, prompt_batch=512, pooling="mean") as llama:
        vectors = np.array([llama.embed([passage.text])[0] for passage in passages])
        asked = np.array([llama.embed([question])[0] for question in QUESTIONS])
    error = 0.0
    for question, vector in zip(QUESTIONS, asked, strict=True):
        command = [sys.executable, str(EXAMPLE), "--endpoint", mesh.grpc, "--api-key", mesh.api_key]
        options = ["--folder", str(FOLDER), "--limit", str(PASSAGES), "--top", str(len(passages)), question]
        printed = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=120).stdout
        found = [(float(similarity), path, int(line)) for similarity, path, line in FOUND.findall(printed)]
        wanted = {
            (str(passage.path.relative_to(ROOT)), passage.line): similarity
            for passage, similarity in zip(passages, (vectors @ vector).tolist(), strict=True)
        }
        assert {(path, line) for _, path, line in found} == wanted.keys()
        ranked = [wanted[path, line] for _, path, line in found]
        # Those that are as alike as the error allows may change places.
        assert all(earlier >= later - SIMILARITY_ERROR_MAX for earlier, later in pairwise(ranked))
        error = max(error, *(abs(similarity - wanted[path, line]) for similarity, path, line in found))
    measured(
        f"semantic search over passages of our own pages, {len(QUESTIONS)} questions, by SmolLM2",
        "ranked as the library itself ranks",
        f"{len(passages)} passages, the same order; similarities differ by {error:.5f} at most, of which 0.00005 are "
        "its four digits",
    )
    assert error <= SIMILARITY_ERROR_MAX
