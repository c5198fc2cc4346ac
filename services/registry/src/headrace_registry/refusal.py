"""Why a file that was uploaded is no model that can be served."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Why a file is refused."""

    NOT_ONNX = "not_onnx"
    EXTERNAL_DATA = "external_data"
    TOO_DEEP = "too_deep"
    REJECTED = "rejected"
    OPERATOR_UNKNOWN = "operator_unknown"
    OUT_OF_MEMORY = "out_of_memory"
    GGUF_INVALID = "gguf_invalid"


class Refusal(Exception):
    """The file is refused; `subject` names the tensor at fault where there is one, or what is wrong with a GGUF."""

    def __init__(self, fault: Fault, subject: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.subject = subject
