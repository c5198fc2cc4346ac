"""The path of an inference call through the gateway."""

from headrace_gateway.inference.handler import Caller, InferenceHandler

__all__ = ["Caller", "InferenceHandler"]
