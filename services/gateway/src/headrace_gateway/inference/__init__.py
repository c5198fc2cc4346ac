"""The path of an inference call through the gateway: endpoint → handler → dispatcher → runner session."""

from headrace_gateway.inference.call import Caller
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.endpoint import OneRequestEndpoint, unary_endpoint
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.payload_gate import PayloadGate

__all__ = ["Caller", "Dispatcher", "InferenceHandler", "OneRequestEndpoint", "PayloadGate", "unary_endpoint"]
