"""What a manifest may say of texts as raw input. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.registry.v1.manifest_pb2 import (
    TEXT_PADDING_LONGEST,
    TEXT_PADDING_MAX_LENGTH,
    TensorSpec,
    TextPadding,
    TextProcessor,
)
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.manifest_faults import mismatch, wrong

TEXT = "text"
TOKENIZER = "tokenizer.json"
TOKENS = "tokens"
LENGTH_DEFAULT = 512
LENGTH_MAX = 131_072
BYTES_DEFAULT = 1 << 20
BYTES_MAX = 16 << 20

_FIELD = "processing.text"
_IDS = ("INT32", "INT64")
_MASK = ("INT32", "INT64", "FP16", "FP32", "BOOL")


def check_text_processor(text: TextProcessor) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    for name, value, limit in (
        ("max_length", text.max_length, LENGTH_MAX),
        ("bytes_max", text.bytes_max, BYTES_MAX),
    ):
        if value > limit:
            raise wrong(f"{_FIELD}.{name}", f"is {value}, at most {limit} is allowed")
    if text.padding not in TextPadding.values():
        raise wrong(f"{_FIELD}.padding", f"is {text.padding}, it must be one of {', '.join(TextPadding.keys())}")


def tokens_name(text: TextProcessor) -> str:
    """The output that counts tokens."""
    return text.tokens or TOKENS


def complete_text(
    text: TextProcessor, inputs: Sequence[TensorSpec], files: frozenset[str]
) -> tuple[TensorSpec, TensorSpec]:
    """Fills in what follows from the model's tensors and files; the raw input, and the output that counts tokens.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    text.input = text.input or TEXT
    text.tokenizer = text.tokenizer or TOKENIZER
    if text.tokenizer not in files:
        shown = text.tokenizer[:TEXT_CHARS_MAX]
        raise mismatch(f"{_FIELD}.tokenizer", f"is '{shown}', which is none of the upload's extra files")
    known = {spec.name: spec for spec in inputs}
    text.ids = text.ids or "input_ids"
    text.attention_mask = text.attention_mask or ("attention_mask" if "attention_mask" in known else "")
    text.type_ids = text.type_ids or ("token_type_ids" if "token_type_ids" in known else "")
    ids = _named("ids", text.ids, known, _IDS)
    for name, tensor, datatypes in (
        ("attention_mask", text.attention_mask, _MASK),
        ("type_ids", text.type_ids, _IDS),
    ):
        if tensor:
            _named(name, tensor, known, datatypes)
            if tensor in [text.ids, text.attention_mask][: 1 + (name == "type_ids")]:
                raise mismatch(f"{_FIELD}.{name}", f"is '{tensor[:TEXT_CHARS_MAX]}', which has another part already")
    _complete_length(text, ids)
    text.bytes_max = text.bytes_max or BYTES_DEFAULT
    if not text.HasField("special_tokens"):
        text.special_tokens = True
    text.tokens = tokens_name(text)
    return (
        TensorSpec(name=text.input, datatype="BYTES", shape=ids.shape[:1], optional=True),
        TensorSpec(name=text.tokens, datatype="INT32", shape=ids.shape[:1]),
    )


def _complete_length(text: TextProcessor, ids: TensorSpec) -> None:
    own = ids.shape[1]
    if own == -1:
        text.max_length = text.max_length or LENGTH_DEFAULT
        text.padding = text.padding or TEXT_PADDING_LONGEST
        return
    text.max_length = text.max_length or own
    text.padding = text.padding or TEXT_PADDING_MAX_LENGTH
    if text.max_length != own:
        raise mismatch(f"{_FIELD}.max_length", f"is {text.max_length}, '{ids.name}' takes exactly {own} tokens")
    if text.padding != TEXT_PADDING_MAX_LENGTH:
        raise mismatch(f"{_FIELD}.padding", f"must be TEXT_PADDING_MAX_LENGTH: '{ids.name}' takes exactly {own} tokens")


def _named(field: str, name: str, known: Mapping[str, TensorSpec], datatypes: Sequence[str]) -> TensorSpec:
    spec = known.get(name)
    if spec is None:
        raise mismatch(f"{_FIELD}.{field}", f"is '{name[:TEXT_CHARS_MAX]}', the model has no such input")
    if spec.datatype not in datatypes or len(spec.shape) != 2:
        raise mismatch(
            f"{_FIELD}.{field}",
            f"is '{name}', which is {spec.datatype} of shape {list(spec.shape)}; "
            f"it must have two axes and be one of {', '.join(datatypes)}",
        )
    return spec
