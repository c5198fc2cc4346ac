"""The program that opens an untrusted GGUF file: `python -I -m headrace_registry.gguf_inspection ...`.

It answers with `header`, an object of the fields of `GgufHeader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from headrace_common.gguf import GgufInvalid, read_header
from headrace_registry.inspection_process import answer_for
from headrace_registry.refusal import Fault, Refusal


def inspect(path: Path) -> Mapping[str, object]:
    """What the file says of its model; its template stays in the file, where the runner finds it.

    Raises:
        Refusal: the file isn't a model that can be served.
    """
    try:
        header = read_header(path)
    except GgufInvalid as error:
        raise Refusal(Fault.GGUF_INVALID, str(error)) from None
    if not header.vocabulary_size:
        raise Refusal(Fault.GGUF_INVALID, "has no vocabulary, so it can't take text")
    return {"header": asdict(replace(header, chat_template=""))}


if __name__ == "__main__":
    answer_for(inspect)
